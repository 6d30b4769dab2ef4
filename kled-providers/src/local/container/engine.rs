//! The Docker API as far as a workspace needs it, with errors of ours.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::io;
use std::path::Path;
use std::time::Duration;

use bollard::errors::Error as ApiError;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerSummaryStateEnum, ImageInspect, SystemInfo,
    Volume, VolumeCreateRequest,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, DownloadFromContainerOptionsBuilder,
    InspectContainerOptions, KillContainerOptionsBuilder, ListContainersOptionsBuilder,
    ListVolumesOptionsBuilder, RemoveContainerOptionsBuilder, RemoveVolumeOptions,
    RenameContainerOptionsBuilder, StartContainerOptions, StopContainerOptionsBuilder,
    UploadToContainerOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures::{Stream, StreamExt};
use jiff::Timestamp;
use kled_core::{Error, ErrorKind, Result};

pub(super) type Labels = HashMap<String, String>;

/// The client's own limit for the head of an answer, in seconds. Every operation has its own deadline, which is what
/// counts; this one is only for connections that nobody waits for any more.
const REQUEST_SECONDS: u64 = 3600;

/// Podman records the end of a container in some ten milliseconds.
const SETTLING: Duration = Duration::from_millis(10);

/// What another call may take to start or to end a container.
const BETWEEN_STATES: Duration = Duration::from_secs(5);

/// A container or volume as a list shows it.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) labels: Labels,
    /// Of a container: it runs, or has run.
    pub(super) was_started: bool,
}

/// A connection to Docker or Podman.
#[derive(Clone, Debug)]
pub(super) struct Engine {
    pub(super) docker: Docker,
    /// Where it is, for people and for the folder of what is under way.
    pub(super) address: String,
}

/// What kind of objects a list is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Objects {
    Containers,
    Volumes,
}

impl Engine {
    /// Connects and agrees on a version of the API.
    pub(super) async fn connect(address: &str, within: Duration) -> Result<Self> {
        let docker = match address.strip_prefix("unix://") {
            Some(path) => Docker::connect_with_unix(path, REQUEST_SECONDS, API_DEFAULT_VERSION),
            None => Docker::connect_with_http(address, REQUEST_SECONDS, API_DEFAULT_VERSION),
        };
        let connected =
            async { docker.map_err(Failed::plain)?.negotiate_version().await.map_err(Failed::plain) };
        let docker = tokio::time::timeout(within, connected)
            .await
            .unwrap_or_else(|_| Err(Error::timeout("connect", within)))
            .map_err(|error| error.with("engine", address))?;
        Ok(Self { docker, address: address.into() })
    }

    /// True when the engine runs on this machine, so that it has this machine's clock of boots.
    pub(super) fn is_local(&self) -> bool {
        self.address.starts_with("unix://")
    }

    pub(super) async fn info(&self) -> Result<SystemInfo> {
        self.docker.info().await.map_err(Failed::plain)
    }

    /// The labels of a volume, if it exists.
    pub(super) async fn volume(&self, name: &str) -> Result<Option<Labels>> {
        present(settled(|| self.docker.inspect_volume(name)).await)
            .map(|volume| volume.map(|volume| volume.labels))
    }

    /// Makes a volume, or finds the one of this name: the labels say which.
    pub(super) async fn create_volume(&self, name: &str, labels: Labels) -> Result<Labels> {
        let request = VolumeCreateRequest {
            name: Some(name.into()),
            labels: Some(labels),
            ..VolumeCreateRequest::default()
        };
        match self.docker.create_volume(request).await {
            // What the answer says of labels differs between engines, so it is not read.
            Ok(_) => {}
            // Podman, when another call makes it at the same time.
            Err(error) if says(&error, "already exists") => {}
            Err(error) => return Err(Failed::plain(error)),
        }
        self.volume(name).await?.ok_or_else(|| {
            Error::new(ErrorKind::Cancelled, "the volume was removed while it was made").with("volume", name)
        })
    }

    /// Removes a volume. Nothing happens to one that a container uses: that answers false.
    pub(super) async fn remove_volume(&self, name: &str) -> Result<bool> {
        match self.docker.remove_volume(name, None::<RemoveVolumeOptions>).await {
            Err(error) if status(&error) == Some(409) || says(&error, "in use") => Ok(false),
            // Podman, while an upload that was given up still writes into it.
            Err(error) if says(&error, "directory not empty") => Ok(false),
            Err(error) if says(&error, "no such volume") => Ok(true),
            result => present(result).map(|_| true),
        }
    }

    /// All containers or volumes that have this label.
    pub(super) async fn list(&self, objects: Objects, label: &str) -> Result<Vec<Listed>> {
        let filters = HashMap::from([("label", vec![label])]);
        match objects {
            Objects::Containers => {
                let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
                let list = || self.docker.list_containers(Some(options.clone()));
                let containers = settled(list).await.map_err(Failed::plain)?;
                Ok(containers
                    .into_iter()
                    .filter_map(|container| {
                        let name = container.names?.into_iter().next()?;
                        Some(Listed {
                            name: name.trim_start_matches('/').into(),
                            labels: container.labels.unwrap_or_default(),
                            was_started: matches!(
                                container.state,
                                Some(
                                    ContainerSummaryStateEnum::RUNNING
                                        | ContainerSummaryStateEnum::EXITED
                                        | ContainerSummaryStateEnum::PAUSED
                                )
                            ),
                        })
                    })
                    .collect())
            }
            Objects::Volumes => {
                let options = ListVolumesOptionsBuilder::new().filters(&filters).build();
                let list = || self.docker.list_volumes(Some(options.clone()));
                let listed = settled(list).await.map_err(Failed::plain)?;
                let shown =
                    |volume: Volume| Listed { name: volume.name, labels: volume.labels, was_started: false };
                Ok(listed.volumes.unwrap_or_default().into_iter().map(shown).collect())
            }
        }
    }

    pub(super) async fn container(&self, name: &str) -> Result<Option<ContainerInspectResponse>> {
        present(settled(|| self.docker.inspect_container(name, None::<InspectContainerOptions>)).await)
    }

    pub(super) async fn create_container(&self, name: &str, body: ContainerCreateBody) -> Result<()> {
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        self.docker.create_container(Some(options), body).await.map(drop).map_err(Failed::plain)
    }

    /// Gives a container another name. False when that is taken.
    pub(super) async fn rename_container(&self, from: &str, to: &str) -> Result<bool> {
        let options = RenameContainerOptionsBuilder::new().name(to).build();
        match self.docker.rename_container(from, options).await {
            Ok(()) => Ok(true),
            // Podman answers 500 where Docker answers 409.
            Err(error) if status(&error) == Some(409) || says(&error, "in use") => Ok(false),
            Err(error) => Err(Failed::plain(error)),
        }
    }

    /// Starts a container. Podman refuses one that another call is just starting or ending: it is asked again.
    pub(super) async fn start_container(&self, name: &str) -> Result<()> {
        let deadline = tokio::time::Instant::now() + BETWEEN_STATES;
        loop {
            match self.docker.start_container(name, None::<StartContainerOptions>).await {
                Err(error)
                    if says(&error, "container state improper") && tokio::time::Instant::now() < deadline =>
                {
                    tokio::time::sleep(SETTLING).await;
                }
                result => return result.map_err(Failed::plain),
            }
        }
    }

    /// Sends a signal. One that has ended, or is gone, needs none.
    pub(super) async fn signal_container(&self, name: &str, signal: &str) -> Result<()> {
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        match self.docker.kill_container(name, Some(options)).await {
            Err(error) if status(&error) == Some(409) || says(&error, "not running") => Ok(()),
            Err(error) if says(&error, "can only kill running containers") => Ok(()),
            result => present(result).map(drop),
        }
    }

    /// Kills a container and returns when it has ended.
    pub(super) async fn stop_container(&self, name: &str) -> Result<()> {
        let options = StopContainerOptionsBuilder::new().t(0).build();
        present(self.docker.stop_container(name, Some(options)).await).map(drop)
    }

    /// Ends and removes a container with its anonymous volumes. One that is gone was removed.
    pub(super) async fn remove_container(&self, name: &str) -> Result<()> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match self.docker.remove_container(name, Some(options)).await {
            // Docker, while another call removes it.
            Err(error) if status(&error) == Some(409) && says(&error, "already in progress") => Ok(()),
            Err(error) if says(&error, "no such container") || says(&error, "no container with") => Ok(()),
            result => present(result).map(drop),
        }
    }

    /// Unpacks an archive in a folder of a container.
    pub(super) async fn upload<S>(&self, container: &str, path: &str, archive: S) -> Result<()>
    where
        S: Stream<Item = io::Result<bytes::Bytes>> + Send + 'static,
    {
        let options = UploadToContainerOptionsBuilder::new().path(path).build();
        let body = bollard::body_try_stream(archive);
        self.docker.upload_to_container(container, Some(options), body).await.map_err(Failed::plain)
    }

    /// An archive of a file of a container, if there is such a file and the archive is at most so long.
    pub(super) async fn download(
        &self,
        container: &str,
        path: &str,
        limit: usize,
    ) -> Result<Option<Vec<u8>>> {
        let options = DownloadFromContainerOptionsBuilder::new().path(path).build();
        let mut pieces = Box::pin(self.docker.download_from_container(container, Some(options)));
        let mut archive = Vec::new();
        while let Some(piece) = pieces.next().await {
            match piece {
                Ok(piece) if archive.len() + piece.len() <= limit => archive.extend_from_slice(&piece),
                Ok(_) => {
                    return Err(Error::new(ErrorKind::InvalidInput, "a file of the container is too long")
                        .with("path", path));
                }
                Err(error) if status(&error) == Some(404) => return Ok(None),
                Err(error) => return Err(Failed::plain(error)),
            }
        }
        Ok(Some(archive))
    }

    /// The time on the engine's machine, if it says so.
    pub(super) async fn time(&self) -> Result<Option<Timestamp>> {
        Ok(self.info().await?.system_time.and_then(|time| time.parse().ok()))
    }

    pub(super) async fn image(&self, image: &str) -> Result<Option<ImageInspect>> {
        present(self.docker.inspect_image(image).await)
    }

    /// Fetches an image from its registry.
    pub(super) async fn pull(&self, image: &str, report: impl Fn(&str)) -> Result<()> {
        let options = CreateImageOptionsBuilder::new().from_image(image).build();
        let mut updates = Box::pin(self.docker.create_image(Some(options), None, None));
        while let Some(update) = updates.next().await {
            let update = update.map_err(Failed::plain)?;
            if let Some(status) = update.status {
                report(&status);
            }
        }
        Ok(())
    }
}

/// Asks again while Podman is between two states. One is a state that the Docker API has not: a process has ended and
/// its end is not recorded yet. The other is no answer: an object was removed while it was looked at, which is 500 and
/// no proof of absence. The deadline of the operation ends it.
async fn settled<T, R>(ask: impl Fn() -> R) -> std::result::Result<T, ApiError>
where
    R: Future<Output = std::result::Result<T, ApiError>>,
{
    loop {
        match ask().await {
            Err(ApiError::JsonDataError { message, .. }) if message.contains("unknown variant `stopped`") => {
                tokio::time::sleep(SETTLING).await;
            }
            Err(error) if status(&error) == Some(500) && says(&error, "no such ") => {
                tokio::time::sleep(SETTLING).await;
            }
            result => return result,
        }
    }
}

/// The HTTP status of an answer, if there was one.
pub(super) fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// Whether the engine's message has this text, whatever the case of its letters.
pub(super) fn says(error: &ApiError, text: &str) -> bool {
    match error {
        ApiError::DockerResponseServerError { message, .. } => message.to_lowercase().contains(text),
        ApiError::DockerStreamError { error } => error.to_lowercase().contains(text),
        _ => false,
    }
}

/// Nothing where the engine itself says that there is no such thing, and only there.
fn present<T>(result: std::result::Result<T, ApiError>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if status(&error) == Some(404) => Ok(None),
        Err(error) => Err(Failed::plain(error)),
    }
}

/// Turns what the client says into an error of ours.
pub(super) struct Failed;

impl Failed {
    pub(super) fn plain(error: ApiError) -> Error {
        let (kind, message) = match &error {
            _ if says(&error, "no space left on device") => {
                (ErrorKind::StorageFull, "no space is left in the container engine's storage")
            }
            ApiError::DockerResponseServerError { status_code, .. } => match status_code {
                400 => (ErrorKind::InvalidInput, "the container engine refused the request"),
                401 | 403 => (ErrorKind::PermissionDenied, "the container engine denied access"),
                // Whoever asks for something that may be absent looks at the status itself.
                404 | 409 => (ErrorKind::Conflict, "the container was changed by another call"),
                _ => (ErrorKind::Unavailable, "the container engine failed"),
            },
            _ if io_kind(&error) == Some(io::ErrorKind::PermissionDenied) => {
                (ErrorKind::PermissionDenied, "the container engine's socket denied access")
            }
            _ => (ErrorKind::Unavailable, "the container engine does not answer"),
        };
        let failed = Error::new(kind, message);
        let failed = match kind {
            ErrorKind::PermissionDenied => {
                failed.hint("let your user open the socket, for example by its group")
            }
            ErrorKind::Unavailable => failed.hint("check that Docker or Podman is running"),
            _ => failed,
        };
        failed.because(error)
    }
}

fn io_kind(error: &ApiError) -> Option<io::ErrorKind> {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Some(error.kind());
        }
        cause = error.source();
    }
    None
}

/// The address of the first engine that is expected here, by its socket.
pub(super) fn default_address(environment: impl Fn(&str) -> Option<String>) -> Option<String> {
    if let Some(address) = environment("DOCKER_HOST").filter(|address| !address.is_empty()) {
        return Some(address);
    }
    let of_user = environment("XDG_RUNTIME_DIR").map(|folder| format!("{folder}/podman/podman.sock"));
    let sockets =
        [Some("/var/run/docker.sock".to_owned()), of_user, Some("/run/podman/podman.sock".to_owned())];
    sockets
        .into_iter()
        .flatten()
        .find(|socket| Path::new(socket).exists())
        .map(|socket| format!("unix://{socket}"))
}
