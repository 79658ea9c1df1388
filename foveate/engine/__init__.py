"""Compression inside a running model. Nothing here knows a method or a model by name.

Read in this order: `schedule` (which method acts before which layer), `handle` (wires hooks), `forward` (what one forward pass does at each
hook), `prefill` (tokens leave), `resume` (new tokens on a cut cache). They rest on `slots` (how a sequence gets shorter), `visual` (where
visual tokens are in it, and how plans are carried out), `keys` (what each cache layer contains), `deciding` (asks a method for plans),
`cache` (cache layers that are shorter than the length they report) and `late` (reports that are made when somebody reads them).

Nothing here waits for an accelerator, but for one copy of what the host must know of a prompt, and one look at all checks of a prefill
(`foveate.devices`). So lengths and padding are numbers of the host, and whatever depends on which tokens stay is a tensor on the device.

Words for places. Each is an index space of its own; only a function that says so converts from one to another.

| word | counts | found in |
|---|---|---|
| row | samples of the batch | first dimension of every tensor |
| input column | tokens of the input as given, padding included | `ImageTokens.columns`, `Slots.input_columns`, `Report.columns` |
| slot | places of the sequence that the present decoder layer sees, padding included | `Slots`, `Route`, `VisualTokens` |
| token | visual tokens of one image, in its own order | `Plan`, `View` |
| key | entries of one cache layer | `CutState.real_keys`, masks |
| position | rotary positions, of one or several kinds | `position_ids`, `CutState.next_position` |

One field is an exception: the `position` of an image (`TrackedImage`, `ImageReport`) counts the images of its row.

A slot, key or column is *real* unless it is padding. A cache layer has a *physical* length, the keys that it contains, and a *logical*
length, the tokens that they stand for. A *segment* is a run of decoder layers that see the same sequence, or whose caches contain the same
keys: with `trim_early_layers` a prefill cuts the sequence into segments, but leaves one segment of caches. Its first layer names it.
"""
