"""An archive by night: many studies through one network, with a ledger, limits, and a summary in the end."""
