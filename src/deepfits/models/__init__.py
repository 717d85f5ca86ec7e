"""The networks of M19 §2.1 and the Wide ResNet it compares with, and models on disk."""
