"""The merges of VisionZip, PruMerge and ToMe, and the choices of VidCom2 and EVS, in loops, as the reference for the fast ones."""

from __future__ import annotations

import math

import numpy as np
from methods_reference import cosine


def slow_best(row: np.ndarray, others: dict[int, np.ndarray]) -> tuple[float, int]:
    """The highest cosine of a row to any of others, and whose; equal to 11 digits is equal, and the first wins."""
    best, whose = -math.inf, -1
    for name, other in others.items():
        if round(cosine(row, other), 11) > best:
            best, whose = round(cosine(row, other), 11), name
    return best, whose


def slow_visionzip(rows: np.ndarray, attention: list[float], dominant: int, contextual: int) -> list[int]:
    """The plan's target."""
    target = [-1] * len(rows)
    rest = list(range(len(rows)))
    for token in sorted(rest, key=lambda i: (-attention[i], i))[:dominant]:
        target[token] = token
        rest.remove(token)
    if contextual:
        centres = rest[:: len(rest) // contextual][:contextual]
        for token in rest:
            target[token] = token if token in centres else slow_best(rows[token], {c: rows[c] for c in centres})[1]
    return target


def slow_prumerge(rows: np.ndarray, attention: list[float], keep: int) -> list[int]:
    """The plan's target: outliers by Tukey's fence, then the middles of equal stretches of the others, then merging."""
    lower, upper = np.percentile(attention, [25, 75])
    ranked = sorted(range(len(rows)), key=lambda i: (-attention[i], i))
    kept = [i for i in ranked if attention[i] > upper + 1.5 * (upper - lower)][:keep]
    others = [i for i in range(len(rows)) if i not in kept]
    wanted, places = keep - len(kept), len(others)
    marks = [math.floor((place * wanted + places // 2) / places) for place in range(places + 1)]
    kept += [token for place, token in enumerate(others) if marks[place + 1] > marks[place]]
    assert len(kept) == keep
    return [i if i in kept else slow_best(rows[i], {j: rows[j] for j in sorted(kept)})[1] for i in range(len(rows))]


def slow_tome(rows: np.ndarray, keep: int) -> list[int]:
    """The plan's target: rounds of bipartite matching of groups, whose features are size-weighted means."""
    groups: list[tuple[int, list[int]]] = [(i, [i]) for i in range(len(rows))]
    while len(groups) > keep:
        merged = min(len(groups) // 2, len(groups) - keep)
        means = {place: np.mean([rows[i] for i in members], 0) for place, (_, members) in enumerate(groups)}
        offers = []
        for place in range(0, len(groups), 2):
            likeness, other = slow_best(means[place], {o: means[o] for o in range(1, len(groups), 2)})
            offers.append((-likeness, place, other))
        gone = []
        for _, place, other in sorted(offers)[:merged]:
            groups[other][1].extend(groups[place][1])
            gone.append(place)
        groups = [group for place, group in enumerate(groups) if place not in gone]
    target = [-1] * len(rows)
    for name, members in groups:
        for member in members:
            target[member] = name
    return target


def slow_vidcom2(frames: list[np.ndarray], keep: int) -> list[int]:
    """The tokens that stay, by the authors' formulas, with one seat after another given to the frame whose next one is worth most."""
    flat = np.concatenate(frames).astype(float)
    channels = sorted(range(flat.shape[1]), key=lambda c: (np.var(flat[:, c]), c))[: max(1, flat.shape[1] // 2)]
    units = [np.array([row[channels] / np.linalg.norm(row[channels]) for row in frame]) for frame in frames]
    middle = np.concatenate(units).mean(0)

    def likeness(row: np.ndarray, centre: np.ndarray) -> float:
        return sum(math.exp(-float(((row - centre) ** 2).sum()) / (2 * 2.0**k)) for k in range(-3, 2))

    to_video = [[likeness(row, middle) for row in frame] for frame in units]
    unlike = [
        [v + likeness(row, frame.mean(0)) for v, row in zip(own, frame, strict=True)] for own, frame in zip(to_video, units, strict=True)
    ]
    powers = [math.exp((-float(np.mean(own)) + min(float(np.mean(each)) for each in to_video)) / 0.01) for own in to_video]
    shares = [len(frame) * (1 + power / sum(powers) - 1 / len(frames)) for frame, power in zip(frames, powers, strict=True)]
    seats = [0] * len(frames)
    for _ in range(keep):
        open_frames = [f for f in range(len(frames)) if seats[f] < len(frames[f])]
        worth = {f: math.inf if seats[f] == 0 and keep >= len(frames) else shares[f] / (seats[f] + 0.5) for f in open_frames}
        seats[max(open_frames, key=lambda f: (round(worth[f], 9) if worth[f] < math.inf else math.inf, -f))] += 1
    kept, start = [], 0
    for frame, own, count in zip(frames, unlike, seats, strict=True):
        kept += [start + i for i in sorted(range(len(frame)), key=lambda i, own=own: (round(own[i], 10), i))[:count]]  # type: ignore[misc]
        start += len(frame)
    return sorted(kept)


def slow_evs(rows: np.ndarray, places: int, keep: int) -> list[int]:
    """The tokens that stay of a video whose frames have `places` tokens, if the first frame fits."""
    change = {i: round(1 - cosine(rows[i], rows[i - places]), 11) for i in range(places, len(rows))}
    return sorted([*range(places), *sorted(change, key=lambda i: (-change[i], i))[: keep - places]])
