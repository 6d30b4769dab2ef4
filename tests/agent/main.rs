//! The agent's program and image are what they are promised to be: static, small, and able to run alone.

mod delivery;
mod process;
mod serve;
mod sidecar;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kled_core::ErrorKind;
use kled_providers::image::{AGENT_REFERENCE, ImageArchive, StaticProgram, agent_image};
use kled_tests::cluster::Cluster;
use kled_tests::image::Image;
use kled_tests::podman::PodmanService;
use kled_tests::suite::{Shared, Suite};
use kled_tests::{agent, programs};

/// What the agent may weigh, so that it is sent into a container in a second or two.
const SIZE_MAX: u64 = 10_000_000;

/// The agent may have to be built first.
const DEADLINE: Duration = Duration::from_secs(1800);

static CLUSTER: Shared<Cluster> = Shared::new();

async fn program() -> Result<PathBuf> {
    tokio::task::spawn_blocking(agent::program).await.context("wait for the build")?
}

fn run(program: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    kled_tests::process::run(command)
}

/// What a program of the machine says about a file; some end with an error where they find nothing.
fn said(name: &str, arguments: &[&str], file: &Path) -> Result<Option<String>> {
    let Some(program) = programs::find(name) else { return Ok(None) };
    let output = Command::new(program).args(arguments).arg(file).env("LC_ALL", "C").output()?;
    Ok(Some(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()))
}

async fn is_static() -> Result<()> {
    let program = program().await?;
    StaticProgram::read(&program)?;
    let linked = said("ldd", &[], &program)?;
    if let Some(linked) = &linked {
        let is_alone =
            ["statically linked", "not a dynamic executable"].iter().any(|alone| linked.contains(alone));
        ensure!(is_alone, "ldd says {linked}");
    }
    let headers = said("readelf", &["--program-headers", "--wide"], &program)?;
    if let Some(headers) = &headers {
        ensure!(headers.contains("LOAD") && !headers.contains("INTERP"), "readelf says {headers}");
    }
    ensure!(linked.is_some() || headers.is_some(), "this machine has neither ldd nor readelf");
    Ok(())
}

async fn is_small() -> Result<()> {
    let size = program().await?.metadata()?.len();
    println!("{} has {size} bytes of at most {SIZE_MAX}", agent::NAME);
    ensure!(size <= SIZE_MAX, "it has {size} bytes");
    Ok(())
}

async fn tells_its_version() -> Result<()> {
    let said = run(&program().await?, &["--version"])?;
    ensure!(said == concat!("kled-agent ", env!("CARGO_PKG_VERSION"), "\n"), "it said {said:?}");
    Ok(())
}

async fn refuses_a_dynamic_program() -> Result<()> {
    let shell = programs::find("bash").context("no program bash")?;
    let error = agent_image(&shell, AGENT_REFERENCE).err().context("a dynamic program was taken")?;
    ensure!(error.kind() == ErrorKind::InvalidInput && error.message().contains("dynamic"), "{error:?}");
    ensure!(error.context().any(|(key, loader)| key == "loader" && loader.contains("/ld-")), "{error}");
    Ok(())
}

/// One archive with two images: each comes out under its name and runs.
async fn runs_in_an_engine() -> Result<()> {
    let podman = PodmanService::start().await?;
    let archive = podman.directory().join("images.tar");
    let other = kled_providers::image::Image::new("localhost/alone:1")
        .file("program", StaticProgram::read(&program().await?)?.into_content(), 0o755)
        .entrypoint(["/program"]);
    let images = ImageArchive::new([agent_image(&program().await?, AGENT_REFERENCE)?, other]);
    images.write_to(std::fs::File::create(&archive)?)?;
    podman.load_image(&archive).await?;
    for name in [&format!("docker.io/{AGENT_REFERENCE}"), "localhost/alone:1"] {
        let said = podman.podman(&["run", "--rm", "--read-only", name, "--version"]).await?;
        ensure!(said.starts_with("kled-agent "), "{name} said {said:?}");
    }
    let user = podman.podman(&["inspect", "--format", "{{.Config.User}}", AGENT_REFERENCE]).await?;
    ensure!(user.trim() == "65532:65532", "its user is {user}");
    Ok(())
}

/// A node finds the image under the short name that a pod has for it, and takes its user for what is not root.
async fn runs_in_a_pod() -> Result<()> {
    let cluster = CLUSTER.get(Cluster::shared).await?;
    let image: Image = tokio::task::spawn_blocking(agent::image).await.context("wait for the image")??;
    cluster.load_image(&image).await?;
    let image = format!("--image={AGENT_REFERENCE}");
    let overrides = r#"--overrides={"spec":{"securityContext":{"runAsNonRoot":true}}}"#;
    let run = ["run", "agent-alone", &image, "--image-pull-policy=Never", "--restart=Never", overrides];
    cluster.kubectl(&[run.as_slice(), &["--", "--version"]].concat()).await?;
    let wait = ["wait", "pod/agent-alone", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s"];
    if let Err(error) = cluster.kubectl(&wait).await {
        let told = cluster.kubectl(&["describe", "pod", "agent-alone"]).await?;
        return Err(error.context(told));
    }
    let said = cluster.kubectl(&["logs", "agent-alone"]).await?;
    ensure!(said.starts_with("kled-agent "), "it said {said:?}");
    cluster.kubectl(&["delete", "pod", "agent-alone"]).await?;
    Ok(())
}

fn with_sidecar(suite: Suite) -> Suite {
    if let Some(reason) = sidecar::missing() {
        return suite.skip("sidecar", reason);
    }
    suite
        .case(
            "sidecar: a refused stop is tried until it is allowed",
            sidecar::a_refused_stop_is_tried_until_it_is_allowed,
        )
        .case("sidecar: a command keeps it running", sidecar::a_command_keeps_it_running_and_annotations_stay)
        .case(
            "sidecar: another of the same name is left alone",
            sidecar::another_workspace_of_the_same_name_is_left_alone,
        )
        .case("sidecar: an expired workspace is deleted", sidecar::an_expired_workspace_is_deleted)
        .case(
            "sidecar: conditions follow, a dead agent is stopped",
            sidecar::conditions_follow_and_a_dead_agent_is_stopped,
        )
}

fn main() -> ExitCode {
    let suite = Suite::new("agent")
        .deadline(DEADLINE)
        .skip_all_if(agent::missing())
        .case("is static", is_static)
        .case("is small", is_small)
        .case("tells its version", tells_its_version)
        .case("a dynamic program is refused", refuses_a_dynamic_program)
        .case(
            "serve: commands have the image's environment",
            serve::commands_have_the_environment_of_the_image_only,
        )
        .case("serve: waits in little memory", serve::waits_in_little_memory)
        .case(
            "serve: takes note of orphans and of nothing else",
            serve::takes_note_of_orphans_and_of_nothing_else,
        )
        .case("serve: a changed file is activity", serve::a_changed_file_is_activity)
        .case("serve: hears a request to end from its start", serve::hears_a_request_to_end_from_its_start)
        .case("serve: ends everything in time", serve::ends_everything_in_time);
    let suite = suite.case("half an agent never takes its place", delivery::refuses_every_half);
    let suite = with_sidecar(suite);
    let suite = match PodmanService::missing() {
        Some(reason) => suite
            .skip("an engine runs its image", reason.clone())
            .skip("it is delivered by a shell", reason.clone())
            .skip("it is delivered without a shell", reason.clone())
            .skip("read-only and noexec are told", reason),
        None => suite
            .case("an engine runs its image", runs_in_an_engine)
            .case("it is delivered by a shell", delivery::goes_through_a_shell)
            .case("it is delivered without a shell", delivery::needs_no_shell)
            .case("read-only and noexec are told", delivery::tells_what_forbids_it),
    };
    let suite = match Cluster::missing() {
        Some(reason) => suite.skip("a pod runs its image", reason),
        None => suite.case("a pod runs its image", runs_in_a_pod),
    };
    let release = async || {
        CLUSTER.release().await;
        Ok(())
    };
    suite.after(release).run()
}
