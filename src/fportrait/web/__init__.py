"""The web studio: `fportrait web`. Needs the extra `web` (Gradio)."""
