"""Back ends for labelling tools: Label Studio and CVAT."""
