"""What tests share: oracles, cases, servers, and small worlds to run jobs in."""
