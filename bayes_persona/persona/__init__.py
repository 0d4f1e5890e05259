"""persona: a posterior over personalizations. NPTL's bootstrap gives every adapter one; nothing else has to change."""
