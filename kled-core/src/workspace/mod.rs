//! What a workspace is: what was asked for ([`WorkspaceSpec`]), where its files come from ([`Source`]) and what is true
//! of it now ([`Workspace`], [`WorkspaceStatus`]).

mod default_name;
mod source;
mod spec;
mod state;

pub use default_name::default_name;
pub use source::{CommitId, History, ReferenceName, Repository, Revision, Source, SubPath};
pub use spec::{Isolation, Port, Protocol, Resources, WorkspaceSpec, WorkspaceSpecBuilder, parse_duration};
pub use state::{
    Checkout, Condition, ConditionStatus, Decision, Operation, StopReason, Workspace, WorkspaceStatus,
};
