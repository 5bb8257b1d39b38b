"""What a person sees: the two web pages in a browser, after a run; the screenshots are kept."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from mlflow.entities import Run
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import FlowRun

from .conftest import ROOT, Promoted, Team

SHOTS = ROOT / ".dae" / "screenshots"
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    assert found, "Chromium must be installed (Debian: apt-get install chromium)"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=QUIET)
        yield opened
        opened.close()


def keep(page: Page, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(1500)  # pictures and tables come a little after their texts
    page.screenshot(path=SHOTS / f"{name}.png")


def test_models_runs_and_artifacts_are_on_both_pages(team: Team, promoted: Promoted, browser: Browser) -> None:
    flow_run = team.flow_run(promoted.run_id)
    (run,) = [each for each in team.runs() if each.data.tags.get("prefect.flow_run_id") == str(flow_run.id)]
    stored = {each.path for each in team.mlflow().list_artifacts(run.info.run_id)}
    assert {"config.yaml", "result.json", "scores.json"} <= stored
    with team.prefect() as client:
        mine = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run.id]))
        (verdict,) = [each for each in client.read_artifacts(artifact_filter=mine) if each.key == "verdict"]
    assert f"dae-smoke version {run.data.tags['model_version']}" in str(verdict.data)
    _on_mlflows_pages(team, browser, run)
    _on_prefects_pages(team, browser, flow_run)


def _on_mlflows_pages(team: Team, browser: Browser, run: Run) -> None:
    login = team.login
    user, password = login["MLFLOW_TRACKING_USERNAME"], login["MLFLOW_TRACKING_PASSWORD"]

    context = browser.new_context(
        http_credentials={"username": user, "password": password}, viewport={"width": 1500, "height": 950}
    )
    page = context.new_page()
    experiment = f"{team.mlflow_url}/#/experiments/{run.info.experiment_id}"
    page.goto(f"{experiment}/runs")
    expect(page.get_by_text(run.info.run_name).first).to_be_visible(timeout=30_000)
    keep(page, "mlflow-runs")
    page.goto(f"{experiment}/runs/{run.info.run_id}/artifacts")
    expect(page.get_by_text("result.json").first).to_be_visible(timeout=30_000)
    keep(page, "mlflow-artifacts")
    page.goto(f"{team.mlflow_url}/#/models/dae-smoke")
    expect(page.get_by_text("champion").first).to_be_visible(timeout=30_000)
    keep(page, "mlflow-model")
    context.close()


def _on_prefects_pages(team: Team, browser: Browser, flow_run: FlowRun) -> None:
    page = browser.new_page(viewport={"width": 1500, "height": 950})
    page.goto(f"{team.prefect_url}/runs/flow-run/{flow_run.id}")
    expect(page.get_by_text("Authentication failed").first).to_be_visible(timeout=30_000)
    assert flow_run.name not in page.content()
    page.goto(team.prefect_url)
    secret = page.locator("input[type=password]")
    expect(secret).to_be_visible(timeout=30_000)
    secret.fill(team.login["PREFECT_API_AUTH_STRING"])
    secret.press("Enter")
    expect(page.get_by_text("Work Pools").first).to_be_visible(timeout=30_000)
    page.goto(f"{team.prefect_url}/runs/flow-run/{flow_run.id}")
    expect(page.get_by_text(flow_run.name).first).to_be_visible(timeout=30_000)
    keep(page, "prefect-run")
    page.goto(f"{team.prefect_url}/deployments")
    expect(page.get_by_text("retrain-if-stale").first).to_be_visible(timeout=30_000)
    keep(page, "prefect-deployments")
    page.goto(f"{team.prefect_url}/automations")
    expect(page.get_by_text("dae-cancel-hanging").first).to_be_visible(timeout=30_000)
    keep(page, "prefect-automations")
    page.close()


def test_mlflows_pages_ask_for_the_password(team: Team, browser: Browser) -> None:
    page = browser.new_page()
    with pytest.raises(Error, match="ERR_INVALID_AUTH_CREDENTIALS"):  # a browser with nobody to ask
        page.goto(team.mlflow_url)
    page.close()
