"""The language between engine and hosts, in vmadm's words: specs, metadata, states, protocols."""
