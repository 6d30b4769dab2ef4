//! How the agent says, as the first process of a container, why it has ended: by its exit code, which the engine keeps.
//! A request is 0; what ends it by force has codes of its own.

/// It was idle for as long as its idle timeout.
pub(crate) const IDLE: u8 = 80;

/// Its time to live is over.
pub(crate) const EXPIRED: u8 = 81;
