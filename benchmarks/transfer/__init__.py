"""NPTL beside everything that it is compared with, on really pretrained nets and real data."""
