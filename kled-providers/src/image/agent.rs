//! The image of the workspace agent.

use std::path::Path;

use kled_core::Result;
use oci_spec::image::{
    ANNOTATION_DESCRIPTION, ANNOTATION_LICENSES, ANNOTATION_SOURCE, ANNOTATION_TITLE, ANNOTATION_VERSION,
};

use super::{Image, StaticProgram};

/// The name under which workspaces ask for the agent of this version.
pub const AGENT_REFERENCE: &str = concat!("kled/workspace-agent:", env!("CARGO_PKG_VERSION"));

/// Where the agent is in its image.
pub const AGENT_PATH: &str = "/kled-agent";

/// Whom the agent runs as: nobody whom a node's own users could be taken for, by the number that images without a
/// distribution have for it.
pub const AGENT_USER: &str = "65532:65532";

const TITLE: &str = "workspace-agent";
const DESCRIPTION: &str = "The agent beside every Kled workspace";

/// The image of the agent: the static program and nothing else, not even a shell. Blocks: it reads the program.
///
/// `reference` is [`AGENT_REFERENCE`] unless the image goes to a registry of one's own.
///
/// # Errors
/// As [`StaticProgram::read`].
pub fn agent_image(binary: &Path, reference: impl Into<String>) -> Result<Image> {
    let program = StaticProgram::read(binary)?;
    let image = Image::new(reference)
        .architecture(program.architecture())
        .file(AGENT_PATH.trim_start_matches('/'), program.into_content(), 0o755)
        .entrypoint([AGENT_PATH])
        .user(AGENT_USER);
    let labels = [
        (ANNOTATION_TITLE, TITLE),
        (ANNOTATION_DESCRIPTION, DESCRIPTION),
        (ANNOTATION_VERSION, env!("CARGO_PKG_VERSION")),
        (ANNOTATION_SOURCE, env!("CARGO_PKG_REPOSITORY")),
        (ANNOTATION_LICENSES, env!("CARGO_PKG_LICENSE")),
    ];
    Ok(labels.into_iter().fold(image, |image, (name, value)| image.label(name, value)))
}

#[cfg(test)]
mod tests {
    use super::super::ImageArchive;
    use super::super::program::tests::static_program;
    use super::*;

    #[test]
    fn the_agents_image_runs_the_agent_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("any-name");
        std::fs::write(&binary, static_program()).unwrap();
        let image = agent_image(&binary, AGENT_REFERENCE).unwrap();
        let paths: Vec<_> = image.layer.iter().map(|entry| (entry.path.as_str(), entry.mode)).collect();
        assert_eq!(paths, [("kled-agent", 0o755)]);
        let configuration = serde_json::to_value(image.configuration("sha256:0").unwrap()).unwrap();
        assert_eq!(configuration["architecture"], "amd64");
        assert_eq!(configuration["config"]["Entrypoint"], serde_json::json!(["/kled-agent"]));
        assert_eq!(configuration["config"]["User"], "65532:65532");
        assert_eq!(configuration["config"]["Cmd"], serde_json::Value::Null);
        assert_eq!(configuration["config"]["Labels"][ANNOTATION_VERSION], env!("CARGO_PKG_VERSION"));
        let summaries = ImageArchive::new([image]).write_to(std::io::sink()).unwrap();
        assert_eq!(summaries[0].reference, format!("docker.io/{AGENT_REFERENCE}"));
    }

    #[test]
    fn the_dockerfile_says_the_same() {
        let dockerfile = include_str!("../../images/workspace-agent/Dockerfile");
        let labels = [
            format!("{ANNOTATION_TITLE}=\"{TITLE}\""),
            format!("{ANNOTATION_DESCRIPTION}=\"{DESCRIPTION}\""),
            format!("{ANNOTATION_SOURCE}=\"{}\"", env!("CARGO_PKG_REPOSITORY")),
            format!("{ANNOTATION_LICENSES}=\"{}\"", env!("CARGO_PKG_LICENSE")),
        ];
        let last = dockerfile.split_once("\nFROM scratch\n").unwrap().1;
        let lines = [format!("\nUSER {AGENT_USER}\n"), format!("\nENTRYPOINT [\"{AGENT_PATH}\"]\n")];
        for text in labels.into_iter().chain(lines) {
            assert!(last.contains(&text), "no {text:?}");
        }
        assert!(dockerfile.contains(&format!("--tag {AGENT_REFERENCE} ")), "its example has another name");
    }

    #[test]
    fn a_dynamic_agent_is_refused() {
        let error = agent_image(&std::env::current_exe().unwrap(), AGENT_REFERENCE).unwrap_err();
        assert!(error.message().contains("dynamic"), "{error}");
    }
}
