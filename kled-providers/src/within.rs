//! The bound of a call.

use std::time::Duration;

use kled_core::workspace::Operation;
use kled_core::{Error, Result, WorkspaceName};

/// Ends a call in time and names the operation and the workspace in its error.
pub(crate) async fn within<T>(
    operation: Operation,
    name: &WorkspaceName,
    timeout: Duration,
    call: impl Future<Output = Result<T>> + Send,
) -> Result<T> {
    let limited = tokio::time::timeout(timeout, call);
    let result = limited.await.unwrap_or_else(|_| Err(Error::timeout(operation.as_str(), timeout)));
    result.map_err(|error| error.during(operation.as_str()).with("workspace", name))
}
