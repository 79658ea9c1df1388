"""Compression inside a running model. Nothing here knows a method or a model by name.

Read in this order: `schedule` (which method acts before which layer), `handle` (wires hooks), `forward` (what one forward pass does at each
hook), `prefill` (tokens leave), `resume` (new tokens on a cut cache). They rest on `slots` (how a sequence gets shorter), `keys` (what each
cache layer holds), `deciding` (what a method reads and decides) and `cache`.

Words for positions. They are different spaces; an index never changes its space without a function that says so.

| word | counts | held in |
|---|---|---|
| row | samples of the batch | first dimension of every tensor |
| input column | tokens of the input as given, padding included | `ImageTokens.columns`, `Slots.input_columns`, `Report.columns` |
| slot | places of the sequence that the present decoder layer sees, padding included | `Slots`, `Route`, `TrackedImage.slots` |
| token | visual tokens of one image, in its own order | `Plan`, `View` |
| key | entries of one cache layer | `CutState.real_keys`, masks |
| position | rotary positions, of one or several kinds | `position_ids`, `CutState.next_position` |

A slot, key or column is *real* unless it is padding. A cache layer has a *physical* length, the keys that it holds, and a *logical* length,
the tokens that they stand for. A *segment* is a run of decoder layers that hold the same keys; the layer where it begins names it.
"""
