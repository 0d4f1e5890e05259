"""What people do without NPTL: other posteriors over an adapter's parameters, behind the same call as `personalize`."""
