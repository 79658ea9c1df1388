"""Labels for a compressor: the relevance of visual tokens over many questions, in resumable files.

Start with `labelling` (`make_labels`, a whole data set) and `labeller` (one batch of samples). `samples` defines what is asked,
`dataset_samples` and `scene_samples` are its sources, and `label_files` reads and writes the folder.
"""
