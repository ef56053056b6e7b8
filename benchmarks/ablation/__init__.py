"""`capeserve bench ablation`: every modality and fusion, trained alike."""
