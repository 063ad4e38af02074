"""Runs NexusQ on a machine where processes are killed at random, and checks afterwards that every promise was kept."""
