"""What a person sees: tables and messages."""
