"""Restoration: a network that guides a frozen text-to-image model by a bad photo (DiffBIR's recipe)."""
