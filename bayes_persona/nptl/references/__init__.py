"""What NPTL is compared with: each method one class behind `nptl.method.Method`, a paper a file."""
