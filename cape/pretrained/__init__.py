"""Pretrained weights that others published: files, folders and packages."""
