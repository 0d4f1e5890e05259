"""The `rl` command: C-PSRL for any Gymnasium environment that says how it is factored."""
