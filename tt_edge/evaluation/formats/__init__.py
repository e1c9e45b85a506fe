"""The data formats of evaluations, one a file: how a data set is read, asked, and scored. Torch-free."""
