"""The offline model: a scripted stand-in for the Claude API."""
