"""The operations of the service, a flow for each."""
