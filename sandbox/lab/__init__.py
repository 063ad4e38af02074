"""The lab: proves on a real sandbox what the documents say, by restarting and killing its parts while batches run."""
