//! The public suite that holds any provider to the promises of [`Provider`](super::Provider).
