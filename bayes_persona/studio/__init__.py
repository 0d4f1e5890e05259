"""The studio: a page on this machine where somebody is learned from photos, looked at, turned and taken along."""
