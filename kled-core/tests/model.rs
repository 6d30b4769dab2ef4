//! Random histories of one workspace, with calls that fail and calls that are dropped, against a model of a few lines.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::FutureExt;
use kled_core::provider::{
    ExecRequest, Fault, FaultInjector, Faults, MemoryBackend, MemoryProvider, Provider, ProviderExt,
};
use kled_core::workspace::{Operation, WorkspaceSpec};
use kled_core::{Error, ErrorKind, WorkspaceName};
use proptest::prelude::*;

/// How a call is cut short, and at which of its steps.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Fail(usize),
    Drop(usize),
}

#[derive(Debug)]
struct Injector {
    cut: Option<Cut>,
    asked: AtomicUsize,
}

impl FaultInjector for Injector {
    fn fault(&self, _: Operation, _: &str) -> Fault {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        match self.cut {
            Some(Cut::Fail(at)) if at == number => {
                Fault::Fail(Error::new(ErrorKind::Unavailable, "injected"))
            }
            Some(Cut::Drop(at)) if at == number => Fault::Hang,
            _ => Fault::None,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Call {
    Create(u8),
    Start,
    Stop,
    Delete,
    Exec,
}

/// What the backend has of the workspace, and of which spec.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Model {
    Absent,
    Interrupted(u8),
    Running(u8),
    Stopped(u8),
    Deleting,
}

/// How a call ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Done,
    Dropped,
    Refused(ErrorKind),
}

/// The steps of a call that acts, as the provider's documentation of its faults would list them.
const CREATE: usize = 4;
const START: usize = 3;
const STOP: usize = 3;
const DELETE: usize = 4;
const EXEC: usize = 2;

/// What has to come of a call.
fn expected(model: Model, call: Call, cut: Option<Cut>) -> (Model, End) {
    use Model::{Absent, Deleting, Interrupted, Running, Stopped};
    let refused = |kind| (model, End::Refused(kind));
    // How many steps the call takes, what is true when it is cut after the first one, and when it is done.
    let (steps, cut_state, done) = match (call, model) {
        (Call::Create(spec), Absent | Deleting) => (CREATE, Interrupted(spec), Ok(Running(spec))),
        (Call::Create(spec), Interrupted(has)) if has == spec => (CREATE, model, Ok(Running(spec))),
        (Call::Create(spec), Running(has) | Stopped(has)) if has == spec => (1, model, Ok(model)),
        (Call::Create(_), _) => (1, model, Err(ErrorKind::Conflict)),
        (Call::Delete, Absent) => (2, model, Ok(Absent)),
        (Call::Delete, _) => (DELETE, Deleting, Ok(Absent)),
        (_, Absent) => (1, model, Err(ErrorKind::NotFound)),
        (Call::Start, Stopped(spec)) => (START, model, Ok(Running(spec))),
        (Call::Stop, Running(spec)) => (STOP, model, Ok(Stopped(spec))),
        (Call::Start, Running(_)) | (Call::Stop, Stopped(_)) => (1, model, Ok(model)),
        (Call::Exec, Running(_)) => (EXEC, model, Ok(model)),
        (Call::Start | Call::Stop | Call::Exec, _) => (1, model, Err(ErrorKind::InvalidState)),
    };
    let at = match cut {
        Some(Cut::Fail(at) | Cut::Drop(at)) if at < steps => at,
        _ => return done.map_or_else(refused, |state| (state, End::Done)),
    };
    // A delete asks twice before it marks, everything else once before it acts.
    let acted = if matches!(call, Call::Delete) { at > 1 } else { at > 0 };
    let state = if acted { cut_state } else { model };
    match cut {
        Some(Cut::Fail(_)) => (state, End::Refused(ErrorKind::Unavailable)),
        _ => (state, End::Dropped),
    }
}

fn spec(number: u8) -> WorkspaceSpec {
    WorkspaceSpec::builder(format!("https://example.com/{number}")).build().unwrap()
}

/// Makes the call on a handle of its own. It needs no waiting, so one poll shows how it ends.
fn perform(backend: &MemoryBackend, name: &WorkspaceName, call: Call, cut: Option<Cut>) -> End {
    let injector = Arc::new(Injector { cut, asked: AtomicUsize::new(0) });
    let provider =
        MemoryProvider::builder().backend(backend.clone()).faults(Faults::injected(injector)).build();
    let result = match call {
        Call::Create(number) => {
            provider.create(name, &spec(number)).now_or_never().map(|result| result.map(drop))
        }
        Call::Start => provider.start(name).now_or_never().map(|result| result.map(drop)),
        Call::Stop => provider.stop(name).now_or_never().map(|result| result.map(drop)),
        Call::Delete => provider.delete(name).now_or_never().map(|result| result.map(drop)),
        Call::Exec => {
            provider.exec(name, ExecRequest::new(["true"])).now_or_never().map(|result| result.map(drop))
        }
    };
    match result {
        None => End::Dropped,
        Some(Ok(())) => End::Done,
        Some(Err(error)) => End::Refused(error.kind()),
    }
}

/// The state that the backend shows.
fn observed(backend: &MemoryBackend, name: &WorkspaceName) -> (&'static str, Option<WorkspaceSpec>) {
    let provider = MemoryProvider::builder().backend(backend.clone()).build();
    match provider.status(name).now_or_never().expect("status does not wait") {
        Ok(workspace) => (workspace.status.state(), Some(workspace.spec)),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::NotFound);
            assert!(backend.held(name).is_empty(), "something is held of a workspace that is not there");
            ("Absent", None)
        }
    }
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        4 => (0..2_u8).prop_map(Call::Create),
        2 => Just(Call::Start),
        2 => Just(Call::Stop),
        2 => Just(Call::Delete),
        1 => Just(Call::Exec),
    ]
}

fn cut() -> impl Strategy<Value = Option<Cut>> {
    prop_oneof![
        Just(None),
        (0..5_usize).prop_map(|at| Some(Cut::Fail(at))),
        (0..5_usize).prop_map(|at| Some(Cut::Drop(at)))
    ]
}

proptest! {
    #[test]
    fn every_history_follows_the_state_machine(history in prop::collection::vec((call(), cut()), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _timers = runtime.enter();
        let (backend, name) = (MemoryBackend::default(), WorkspaceName::new("demo").unwrap());
        let mut model = Model::Absent;
        for (call, cut) in history {
            let (next, end) = expected(model, call, cut);
            prop_assert_eq!(perform(&backend, &name, call, cut), end, "{:?} with {:?} in {:?}", call, cut, model);
            let shown = match next {
                Model::Absent => ("Absent", None),
                Model::Interrupted(number) => ("Interrupted", Some(spec(number))),
                Model::Running(number) => ("Running", Some(spec(number))),
                Model::Stopped(number) => ("Stopped", Some(spec(number))),
                Model::Deleting => ("Deleting", observed(&backend, &name).1),
            };
            prop_assert_eq!(observed(&backend, &name), shown, "after {:?} with {:?} in {:?}", call, cut, model);
            model = next;
        }
    }
}
