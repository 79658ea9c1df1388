"""Information contribution of each visual token: how much of the singular spectrum its row carries."""

from foveate.methods.information.contribution import information_contribution, information_contributions, information_method

__all__ = ["information_contribution", "information_contributions", "information_method"]
