//! The control plane answers, several run side by side, and nothing of them stays behind.

mod faults;

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kled_tests::control_plane::ControlPlane;
use kled_tests::servers::table::KUBERNETES_VERSION;
use kled_tests::slot;
use kled_tests::suite::Suite;
use kled_tests::traces::{self, Held, Traces};
use kube::Api;
use kube::api::PostParams;

fn config_map(owner: &str) -> ConfigMap {
    let data = BTreeMap::from([("owner".to_owned(), owner.to_owned())]);
    let metadata = ObjectMeta { name: Some("owner".to_owned()), ..ObjectMeta::default() };
    ConfigMap { metadata, data: Some(data), ..ConfigMap::default() }
}

async fn answers() -> Result<()> {
    let plane = ControlPlane::start().await?;
    let version = plane.client().apiserver_version().await?;
    ensure!(version.git_version == format!("v{KUBERNETES_VERSION}"), "it is {}", version.git_version);
    let namespaces: Api<Namespace> = Api::all(plane.client());
    namespaces.get("default").await?;
    Ok(())
}

async fn two_run_side_by_side() -> Result<()> {
    let (first, second) = tokio::try_join!(ControlPlane::start(), ControlPlane::start())?;
    ensure!(first.url() != second.url(), "both listen on {}", first.url());
    for (plane, owner) in [(&first, "first"), (&second, "second")] {
        let maps: Api<ConfigMap> = Api::default_namespaced(plane.client());
        maps.create(&PostParams::default(), &config_map(owner)).await?;
    }
    for (plane, owner) in [(&first, "first"), (&second, "second")] {
        let maps: Api<ConfigMap> = Api::default_namespaced(plane.client());
        let data = maps.get("owner").await?.data.context("data")?;
        ensure!(data["owner"] == owner, "{owner} sees the data of {}", data["owner"]);
    }
    Ok(())
}

async fn comes_back_with_its_data() -> Result<()> {
    let plane = ControlPlane::start().await?;
    let maps: Api<ConfigMap> = Api::default_namespaced(plane.client());
    maps.create(&PostParams::default(), &config_map("first")).await?;
    plane.kill_api_server().await?;
    ensure!(maps.get("owner").await.is_err(), "a killed API server answers");
    plane.start_api_server().await?;
    maps.get("owner").await?;
    Ok(())
}

async fn hold() -> Result<(ControlPlane, Traces)> {
    let plane = ControlPlane::start().await?;
    let traces = plane.traces()?;
    Ok((plane, traces))
}

async fn leaves_nothing() -> Result<()> {
    let (plane, traces) = hold().await?;
    ensure!(traces.remaining()?.len() == 3, "of two servers and a directory, these were found: {traces:?}");
    drop(plane);
    traces.wait_until_gone().await
}

async fn is_swept_after_a_kill() -> Result<()> {
    let traces = Held::start().await?.kill().await?;
    traces.wait_until_ended().await?;
    slot::sweep_all()?;
    traces.wait_until_gone().await
}

fn main() -> ExitCode {
    if traces::is_holder() {
        return traces::hold(hold());
    }
    Suite::new("control plane")
        .skip_all_if(ControlPlane::missing())
        .case("answers at its version", answers)
        .case("two run side by side", two_run_side_by_side)
        .case("a killed API server comes back with its data", comes_back_with_its_data)
        .case("a proxy shows every fault as it is told", faults::are_shown)
        .case("a proxy breaks the request at a place", faults::are_at_their_place)
        .case("a proxy tells clients when to try again", faults::tell_when_to_try_again)
        .case("a proxy streams watches and cuts them", faults::cut_watches)
        .case("leaves no process and no directory", leaves_nothing)
        .case("a killed run is swept by the next", is_swept_after_a_kill)
        .run()
}
