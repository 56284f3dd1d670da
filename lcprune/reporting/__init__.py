"""What a person sees: tables, progress, the page about a run and the model card. The latter two are Jinja templates."""
