//! Workspaces on this machine.

#[cfg_attr(not(test), expect(dead_code, reason = "the backends use it"))]
pub(crate) mod checkout;
