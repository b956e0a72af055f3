"""Policy: what a tenant may ask for."""

from agent_service.policy.grant import Grant, SessionQuota

__all__ = ["Grant", "SessionQuota"]
