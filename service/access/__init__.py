"""Who may call, and how much: API tokens, certificates, limits, audit."""
