//! What a workspace's container is made of.

use std::collections::{BTreeMap, HashMap};

use bollard::models::{ContainerCreateBody, HostConfig, Mount, MountType};
use kled_core::workspace::{Protocol, WorkspaceSpec};
use kled_core::{Error, ErrorKind, Quantity, Result};

use super::agent;
use super::marks::Marks;
use crate::agent::delivery::AgentProgram;

/// Where the checkout is in the container.
pub(super) const WORKSPACE_PATH: &str = "/workspace";

/// A folder in memory: what is handed to a command and must not be stored.
pub(super) const MEMORY_PATH: &str = "/run/kled";

/// What the main process writes of itself.
pub(super) const STARTED: &str = "kled: workspace started";
pub(super) const STOPPING: &str = "kled: workspace stopping";

/// The signals that the main process understands: end all that runs, and end at once.
pub(super) const END_SIGNAL: &str = "SIGTERM";
pub(super) const END_NOW_SIGNAL: &str = "SIGUSR1";

/// What engines give by default.
const STOP_SECONDS: i64 = 10;

/// The main process: the first of its process namespace, so it ends all when it ends, and takes in what lost its
/// parent. It needs nothing but a POSIX `sh` and a `sleep`. Told to end, it ends the others and waits for them; its
/// exit code is 0 exactly when it was told.
const MAIN: &str = "\
trap 'ending=1; echo \"kled: workspace stopping\"; kill -TERM -1 2>/dev/null' TERM
trap 'exit 0' USR1
echo 'kled: workspace started'
while [ -z \"$ending\" ]; do sleep 3600 & wait $!; done
while :; do
  set -- /proc/[0-9]*
  [ $# -le 1 ] && exit 0
  sleep 0.1 2>/dev/null & wait $! || { sleep 1 & wait $!; }
done
";

/// Of the engine's default capabilities those that installing software and switching users take.
const CAPABILITIES: [&str; 9] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETGID", "SETPCAP", "SETUID"];

/// More than any build needs, less than a machine has.
const PROCESSES_MAX: i64 = 4096;

/// The folder in which commands begin.
pub(super) fn working_folder(spec: &WorkspaceSpec) -> String {
    spec.source.folder(WORKSPACE_PATH)
}

/// The container of a workspace; with an agent that is its first process, and then needs no shell.
pub(super) fn body(
    marks: &Marks,
    image: &str,
    volume: &str,
    program: Option<&AgentProgram>,
) -> Result<ContainerCreateBody> {
    let spec = &marks.spec;
    let mut labels = marks.labels()?;
    let mut environment: BTreeMap<_, _> =
        spec.environment.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
    let mut entrypoint = vec!["sh".into(), "-c".into(), MAIN.into()];
    if let Some(program) = program {
        labels.insert(agent::AGENT.into(), program.digest().into());
        environment.extend(agent::environment(marks));
        entrypoint = vec![agent::PROGRAM.into(), "serve".into()];
    }
    let environment = environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let ports = spec.ports.iter().map(|port| {
        let protocol = match port.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        format!("{}/{protocol}", port.number)
    });
    Ok(ContainerCreateBody {
        image: Some(image.into()),
        entrypoint: Some(entrypoint),
        cmd: Some(Vec::new()),
        env: Some(environment),
        labels: Some(labels),
        working_dir: Some(WORKSPACE_PATH.into()),
        exposed_ports: Some(ports.collect()),
        stop_signal: Some(END_SIGNAL.into()),
        // For those who stop it by their own hand: Podman takes none for no time at all.
        stop_timeout: Some(STOP_SECONDS),
        host_config: Some(host_config(spec, volume)?),
        ..ContainerCreateBody::default()
    })
}

fn host_config(spec: &WorkspaceSpec, volume: &str) -> Result<HostConfig> {
    let data = Mount {
        typ: Some(MountType::VOLUME),
        source: Some(volume.into()),
        target: Some(WORKSPACE_PATH.into()),
        ..Mount::default()
    };
    let memory = limit("memory", spec.resources.memory.as_ref().map(Quantity::value))?;
    // A thousandth of a processor is a million billionths.
    let cpu = spec.resources.cpu.as_ref().map(|cpu| cpu.millis().saturating_mul(1_000_000));
    Ok(HostConfig {
        mounts: Some(vec![data]),
        tmpfs: Some(HashMap::from([(MEMORY_PATH.into(), "rw,nosuid,nodev,noexec,size=1m,mode=1777".into())])),
        nano_cpus: limit("cpu", cpu)?,
        memory,
        // Equal to the memory: no swap on top of it.
        memory_swap: memory,
        pids_limit: Some(PROCESSES_MAX),
        cap_drop: Some(vec!["ALL".into()]),
        cap_add: Some(CAPABILITIES.map(Into::into).to_vec()),
        security_opt: Some(vec!["no-new-privileges".into()]),
        ..HostConfig::default()
    })
}

fn limit(what: &'static str, value: Option<u64>) -> Result<Option<i64>> {
    value
        .map(|value| {
            i64::try_from(value).map_err(|_| {
                Error::new(ErrorKind::InvalidInput, "the limit is larger than an engine takes")
                    .with("limit", what)
            })
        })
        .transpose()
}

#[cfg(test)]
mod tests {
    use kled_core::WorkspaceName;

    use super::*;

    #[test]
    fn the_agent_is_the_first_process_and_no_spec_changes_what_it_is_told() {
        let builder = WorkspaceSpec::builder(".").environment("KLED_AGENT_TOKEN_FILE", "/workspace/mine");
        let marks = Marks::new(&WorkspaceName::new("demo").unwrap(), &builder.build().unwrap());
        let program = AgentProgram::new(&b"a program"[..]);
        let body = body(&marks, "image", "volume", Some(&program)).unwrap();
        assert_eq!(body.entrypoint.unwrap(), ["/kled/bin/kled-agent", "serve"]);
        assert_eq!(body.labels.unwrap()["kled.io/agent"], program.digest());
        let told: Vec<_> = body.env.unwrap().into_iter().filter(|pair| pair.contains("TOKEN_FILE")).collect();
        assert_eq!(told, ["KLED_AGENT_TOKEN_FILE=/run/kled/token"]);
    }

    #[test]
    fn limits_become_the_engines() {
        let spec = WorkspaceSpec::builder(".").cpu("500m").memory("64Mi").port("53/udp").build().unwrap();
        let marks = Marks::new(&WorkspaceName::new("demo").unwrap(), &spec);
        let body = body(&marks, "image", "volume", None).unwrap();
        assert_eq!(body.exposed_ports.unwrap(), ["53/udp"]);
        let host = body.host_config.unwrap();
        assert_eq!(host.nano_cpus, Some(500_000_000));
        assert_eq!((host.memory, host.memory_swap), (Some(64 << 20), Some(64 << 20)));
    }

    #[test]
    fn the_main_process_says_what_the_log_looks_for() {
        assert!(MAIN.contains(STARTED) && MAIN.contains(STOPPING));
    }
}
