"""The networks of M19 §2.1, the Wide ResNet that it compares with, and models on disk."""
