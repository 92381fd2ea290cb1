"""`pagedc bench`: latency, throughput, serve and startup, each figure beside the machine's limit."""
