//! The calls of the protocol.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use kled_core::provider::Command;
use kled_core::workspace::StopReason;
use kled_core::{Error, ErrorKind};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::commands::Commands;
use super::{checkout, command, connect, detached, files, setup, watch};
use crate::agent::protocol::messages::agent_server::Agent;
use crate::agent::protocol::messages::{
    CheckoutRequest, CheckoutResponse, ConnectRequest, ConnectResponse, DownloadRequest, DownloadResponse,
    ExecRequest, ExecResponse, SetupRequest, SetupResponse, ShutdownRequest, ShutdownResponse, StatusRequest,
    StatusResponse, UploadRequest, UploadResponse, WatchRequest, exec_request, exec_response,
};
use crate::agent::protocol::{broken_protocol, status_of};

/// How long a client may take to say what it wants.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// Answers that wait to be sent.
pub(super) const ANSWER_QUEUE: usize = 8;

/// What a call answers, a message at a time.
type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// Serves the calls of all drivers.
#[derive(Clone, Debug)]
pub(super) struct Calls(pub(super) Arc<Commands>);

/// The first message of a call, which says what is wanted.
pub(super) async fn first<T>(source: &mut Streaming<T>) -> Result<T, Status> {
    match tokio::time::timeout(REQUEST_LIMIT, source.message()).await {
        Ok(Ok(Some(message))) => Ok(message),
        Ok(Ok(None)) => Err(status_of(&broken_protocol())),
        Ok(Err(status)) => Err(status),
        Err(_) => Err(status_of(&Error::new(ErrorKind::Timeout, "the request did not come"))),
    }
}

#[tonic::async_trait]
impl Agent for Calls {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(watch::status(&self.0).await))
    }

    type WatchStream = Answers<StatusResponse>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let statuses = watch::watch(&self.0, request.into_inner().interval_milliseconds);
        Ok(Response::new(statuses.boxed()))
    }

    type ExecStream = Answers<ExecResponse>;

    async fn exec(
        &self,
        request: Request<Streaming<ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let mut source = request.into_inner();
        let Some(exec_request::Message::Start(command)) = first(&mut source).await?.message else {
            return Err(status_of(&broken_protocol()));
        };
        let command = Command::try_from(command).map_err(|error| status_of(&error))?;
        if command.detached {
            let process = detached::start(&self.0, &command).map_err(|error| status_of(&error))?;
            let started = ExecResponse { message: Some(exec_response::Message::Started(process)) };
            return Ok(Response::new(futures::stream::iter([Ok(started)]).boxed()));
        }
        let running = command::start(&self.0, &command).map_err(|error| status_of(&error))?;
        let (answers, receiver) = mpsc::channel(ANSWER_QUEUE);
        let commands = Arc::clone(&self.0);
        tokio::spawn(async move { command::run(&commands, running, source, answers).await });
        Ok(Response::new(ReceiverStream::new(receiver).boxed()))
    }

    type CheckoutStream = Answers<CheckoutResponse>;

    async fn checkout(
        &self,
        request: Request<CheckoutRequest>,
    ) -> Result<Response<Self::CheckoutStream>, Status> {
        let answers = checkout::check_out(&self.0, request.into_inner());
        answers.map(|answers| Response::new(answers.boxed())).map_err(|error| status_of(&error))
    }

    type SetupStream = Answers<SetupResponse>;

    async fn setup(&self, request: Request<SetupRequest>) -> Result<Response<Self::SetupStream>, Status> {
        let answers = setup::set_up(&self.0, request.into_inner());
        answers.map(|answers| Response::new(answers.boxed())).map_err(|error| status_of(&error))
    }

    async fn upload(
        &self,
        request: Request<Streaming<UploadRequest>>,
    ) -> Result<Response<UploadResponse>, Status> {
        files::upload(&self.0, request.into_inner()).await.map(Response::new)
    }

    type DownloadStream = Answers<DownloadResponse>;

    async fn download(
        &self,
        request: Request<DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        files::download(&self.0, &request.into_inner().path).map(|answers| Response::new(answers.boxed()))
    }

    type ConnectStream = Answers<ConnectResponse>;

    async fn connect(
        &self,
        request: Request<Streaming<ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        connect::connect(&self.0, request.into_inner()).await.map(|answers| Response::new(answers.boxed()))
    }

    async fn shutdown(
        &self,
        request: Request<ShutdownRequest>,
    ) -> Result<Response<ShutdownResponse>, Status> {
        let grace = Duration::from_millis(request.into_inner().grace_milliseconds);
        self.0.end_all(grace).await;
        self.0.announce_end(StopReason::Requested);
        Ok(Response::new(ShutdownResponse {}))
    }
}
