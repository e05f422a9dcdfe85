"""The built-in topics, as data. Descriptions are written for a model that chooses what to subscribe to.

Schemas describe a payload and demand nothing of it: no property is required and others may be there as well. Every
topic has at least one filter over its own properties.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from clarion.model import TopicDeclaration

__all__ = ["BUILT_IN", "CATEGORIES"]

CATEGORIES = ("crm", "marketing", "service", "ai", "workflow", "integration", "mcp", "consent", "platform", "custom")
"""The ten categories, in the order in which they are listed."""

_Properties: TypeAlias = dict[str, dict[str, Any]]


def _string(description: str, *choices: str) -> dict[str, Any]:
    """A string; `choices` are its usual values, given as examples and not as the only ones."""
    return {"type": "string", "description": description} | ({"examples": list(choices)} if choices else {})


def _number(description: str) -> dict[str, Any]:
    return {"type": "number", "description": description}


def _integer(description: str) -> dict[str, Any]:
    return {"type": "integer", "description": description}


def _flag(description: str) -> dict[str, Any]:
    return {"type": "boolean", "description": description}


def _strings(description: str) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "string"}, "description": description}


def _object(description: str, **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "description": description, "properties": properties}


def _topic(
    category: str, pattern: str, description: str, properties: _Properties, *examples: Mapping[str, Any]
) -> TopicDeclaration:
    schema = {"type": "object", "properties": properties}
    return TopicDeclaration(pattern, category, description, schema, examples)


_DEAL: _Properties = {
    "deal_id": _string("Identifier of the deal."),
    "account_id": _string("Account that the deal belongs to."),
    "name": _string("Name of the deal."),
    "amount": _number("Value of the deal, in units of its currency."),
    "currency": _string("ISO 4217 code of the amount's currency.", "USD", "EUR"),
    "owner": _string("Person who owns the deal."),
}
_STAGES: _Properties = {
    "old_stage": _string("Stage before the change.", "Qualification", "Proposal"),
    "new_stage": _string("Stage after the change.", "Negotiation", "Closed Won", "Closed Lost"),
}
_CONTACT: _Properties = {
    "contact_id": _string("Identifier of the contact."),
    "account_id": _string("Account that the contact works for."),
    "email": _string("Email address of the contact."),
    "name": _string("Full name of the contact."),
    "owner": _string("Person who owns the contact."),
}
_ACCOUNT: _Properties = {
    "account_id": _string("Identifier of the account."),
    "name": _string("Name of the account."),
    "owner": _string("Person who owns the account."),
    "industry": _string("Industry of the account."),
}
_HEALTH: _Properties = {
    "account_id": _string("Identifier of the account."),
    "old_band": _string("Health band before the change.", "healthy", "neutral", "at_risk"),
    "new_band": _string("Health band after the change.", "healthy", "neutral", "at_risk"),
    "score": _number("Health score after the change, 0 (worst) to 100 (best)."),
    "reason": _string("Why the health changed."),
    "owner": _string("Person who owns the account."),
}


# One topic reads as: category, name, what it means; its properties; examples of filters. One value a line hides that.
# fmt: off


def _crm() -> Iterator[TopicDeclaration]:
    crm = "crm"
    yield _topic(
        crm, "deal.created", "A deal entered the pipeline.", _DEAL | {"stage": _string("Stage that it entered.")},
        {"amount_gte": 50000}, {"owner": "rep@example.com"},
    )
    yield _topic(
        crm, "deal.stage_changed", "A deal moved from one pipeline stage to another.", _DEAL | _STAGES,
        {"stage_to": ["Negotiation", "Closed Won"]}, {"stage_from": "Proposal", "amount_gt": 10000},
    )
    yield _topic(
        crm, "deal.won", "A deal was closed as won.", _DEAL | _STAGES,
        {"amount_gte": 100000}, {"account_id": "acc_123"}, {"account_id": "acc_123", "amount_gte": 100000},
    )
    yield _topic(
        crm, "deal.lost", "A deal was closed as lost.",
        _DEAL | _STAGES | {"reason": _string("Why it was lost."), "competitor": _string("Who won it instead.")},
        {"reason_contains": "price"}, {"competitor_exists": True},
    )
    yield _topic(
        crm, "account.created", "An account was created.", _ACCOUNT,
        {"industry_in": ["software", "retail"]}, {"owner": "rep@example.com"},
    )
    yield _topic(
        crm, "account.health_changed", "An account's health moved to another band, for better or worse.", _HEALTH,
        {"health_band_to": "healthy"}, {"score_lt": 50},
    )
    yield _topic(
        crm, "account.health_at_risk", "An account's health fell into the band at_risk.", _HEALTH,
        {"account_id": "acc_123"}, {"health_band_to": "at_risk", "score_lte": 30},
    )
    yield _topic(
        crm, "contact.created", "A contact was added.", _CONTACT,
        {"email_contains": "@example.com"}, {"account_id": "acc_123"},
    )
    yield _topic(
        crm, "contact.updated", "A contact's details changed.",
        _CONTACT | {"changed": _strings("Names of the details that changed.")},
        {"contact_id": "con_123"},
    )


_CAMPAIGN: _Properties = {
    "campaign_id": _string("Identifier of the campaign."),
    "name": _string("Name of the campaign."),
    "channel": _string("Channel that it uses.", "email", "sms", "ads"),
    "audience_size": _integer("How many people it addresses."),
}
_EMAIL: _Properties = {
    "message_id": _string("Identifier of the message."),
    "campaign_id": _string("Campaign that the message belongs to."),
    "contact_id": _string("Contact that it was sent to."),
    "email": _string("Address that it was sent to."),
}


def _marketing() -> Iterator[TopicDeclaration]:
    marketing = "marketing"
    yield _topic(
        marketing, "campaign.launched", "A campaign began to send.", _CAMPAIGN,
        {"channel": "email"}, {"audience_size_gte": 10000},
    )
    yield _topic(
        marketing, "campaign.completed", "A campaign has sent everything.",
        _CAMPAIGN | {"sent": _integer("Messages sent."), "clicked": _integer("Messages whose link was followed.")},
        {"campaign_id": "cmp_123"}, {"sent_gt": 0},
    )
    yield _topic(
        marketing, "email.sent", "An email was handed to the mail system.", _EMAIL, {"campaign_id": "cmp_123"},
    )
    yield _topic(marketing, "email.opened", "A recipient opened an email.", _EMAIL, {"contact_id": "con_123"})
    yield _topic(
        marketing, "email.clicked", "A recipient followed a link in an email.",
        _EMAIL | {"url": _string("Address of the link.")},
        {"url_prefix": "https://example.com/pricing"},
    )
    yield _topic(
        marketing, "email.bounced", "An email could not be delivered.",
        _EMAIL | {"kind": _string("Whether trying again can help.", "hard", "soft"), "reason": _string("Why.")},
        {"kind": "hard"},
    )
    yield _topic(
        marketing, "form.submitted", "A visitor submitted a form.",
        {
            "form_id": _string("Identifier of the form."),
            "email": _string("Address that the visitor gave."),
            "page": _string("Path of the page that holds the form."),
        },
        {"form_id": "demo-request"}, {"page_prefix": "/pricing"},
    )


_TICKET: _Properties = {
    "ticket_id": _string("Identifier of the ticket."),
    "account_id": _string("Account that the ticket is about."),
    "subject": _string("Subject line."),
    "priority": _string("How urgent it is.", "p1", "p2", "p3"),
    "status": _string("State of the ticket.", "open", "pending", "resolved"),
    "assignee": _string("Person who works on it."),
}


def _service() -> Iterator[TopicDeclaration]:
    service = "service"
    yield _topic(
        service, "ticket.created", "A customer opened a support ticket.", _TICKET,
        {"priority_in": ["p1", "p2"]}, {"account_id": "acc_123"},
    )
    yield _topic(
        service, "ticket.assigned", "A ticket was given to somebody to work on.", _TICKET,
        {"assignee": "agent@example.com"},
    )
    yield _topic(
        service, "ticket.escalated", "A ticket was escalated.",
        _TICKET | {"reason": _string("Why it was escalated."), "level": _integer("Escalation level, from 1.")},
        {"level_gte": 2}, {"priority": "p1"},
    )
    yield _topic(
        service, "ticket.resolved", "A ticket was resolved.",
        _TICKET | {"resolution_minutes": _number("Minutes from opening to resolution.")},
        {"resolution_minutes_gt": 1440},
    )
    yield _topic(
        service, "ticket.*", "Anything else that happens to a support ticket, such as a comment or a merge.", _TICKET,
        {"ticket_id": "tic_123"}, {"priority": "p1", "status_not": "resolved"},
    )


_AGENT_RUN: _Properties = {
    "agent_id": _string("Identifier of the agent."),
    "run_id": _string("Identifier of the run."),
    "model": _string("Model that the agent used."),
    "cost_usd": _number("Cost of the run so far, in US dollars."),
}


def _ai() -> Iterator[TopicDeclaration]:
    ai = "ai"
    yield _topic(ai, "agent.run.started", "An AI agent began a run.", _AGENT_RUN, {"agent_id": "agent_123"})
    yield _topic(
        ai, "agent.run.completed", "An AI agent finished a run.",
        _AGENT_RUN | {"summary": _string("What it did."), "duration_ms": _integer("Milliseconds that it took.")},
        {"cost_usd_gt": 1}, {"agent_id": "agent_123"},
    )
    yield _topic(
        ai, "agent.run.failed", "An AI agent's run ended in an error.",
        _AGENT_RUN | {"error": _string("What went wrong.")},
        {"error_contains": "timeout"},
    )
    yield _topic(
        ai, "agent.approval_requested", "An AI agent waits for a person to approve an action.",
        _AGENT_RUN | {"action": _string("What it wants to do."), "risk": _string("How risky.", "low", "high")},
        {"risk": "high"},
    )
    yield _topic(
        ai, "ai.prediction.updated", "A model's prediction about a record changed.",
        {
            "subject_type": _string("Kind of record that it is about.", "deal", "account"),
            "subject_id": _string("Identifier of that record."),
            "prediction": _string("What is predicted.", "churn", "win"),
            "score": _number("Probability, 0 to 1."),
        },
        {"prediction": "churn", "score_gte": 0.8},
    )


_RUN: _Properties = {
    "workflow_id": _string("Identifier of the workflow."),
    "workflow_name": _string("Name of the workflow."),
    "run_id": _string("Identifier of the run."),
    "trigger": _string("What started it.", "schedule", "event", "manual"),
}


def _workflow() -> Iterator[TopicDeclaration]:
    workflow = "workflow"
    yield _topic(
        workflow, "workflow.run.started", "A workflow run began.", _RUN,
        {"workflow_id": "wf_123"}, {"trigger_not": "schedule"},
    )
    yield _topic(
        workflow, "workflow.run.completed", "A workflow run finished without an error.",
        _RUN | {"duration_ms": _integer("Milliseconds that it took.")},
        {"duration_ms_gt": 60000}, {"workflow_name": "Nightly sync"},
    )
    yield _topic(
        workflow, "workflow.run.failed", "A workflow run stopped at an error.",
        _RUN | {"step": _string("Step that failed."), "error": _string("What went wrong.")},
        {"workflow_id": "wf_123"}, {"error_contains": "timeout"},
    )
    yield _topic(
        workflow, "workflow.step.failed", "One step of a workflow run failed; the run may go on.",
        _RUN | {"step": _string("Step that failed."), "attempt": _integer("Which attempt, from 1.")},
        {"attempt_gte": 3},
    )
    yield _topic(
        workflow, "workflow.approval.requested", "A workflow run waits for a person's approval.",
        _RUN | {"approver": _string("Person who is asked.")},
        {"approver": "lead@example.com"},
    )


_GIT: _Properties = {
    "repository": _string("Name of the repository."),
    "branch": _string("Branch, without refs/heads/."),
    "commit": _string("Full hash of the commit."),
    "author": _string("Name of the commit's author."),
    "email": _string("Email address of the commit's author."),
    "subject": _string("First line of the commit message."),
    "files": _strings("Paths that the commit touches."),
}
_FILE: _Properties = {
    "path": _string("Path of the file, relative to the watched folder."),
    "name": _string("Last part of the path."),
    "extension": _string("Extension with its dot, lower case.", ".py", ".md"),
    "size": _integer("Bytes; absent when the file is gone."),
    "root": _string("Name of the watched folder."),
}
_GITHUB: _Properties = {
    "action": _string("What happened, as GitHub names it.", "opened", "closed", "created"),
    "repository": _object(
        "The repository, as GitHub describes it.",
        full_name=_string("Owner and name.", "octocat/hello-world"),
        private=_flag("Whether it is private."),
    ),
    "sender": _object("The account that caused the event.", login=_string("Name of the account.", "octocat")),
    "organization": _object("The organization, when there is one.", login=_string("Name of the organization.")),
}
_GITHUB_NOTE = "Payloads are GitHub's own; aggregate_id is the repository's full name, actor_id the sender's login."


def _integration() -> Iterator[TopicDeclaration]:
    integration = "integration"
    yield _topic(
        integration, "git.commit", "A commit was made in a watched Git repository.", _GIT,
        {"branch": "main"}, {"subject_contains": "fix"}, {"email": "dev@example.com"},
    )
    yield _topic(
        integration, "git.*", "Anything else in a watched Git repository, such as a tag or a new branch.", _GIT,
        {"repository": "clarion"},
    )
    yield _topic(
        integration, "file.added", "A file appeared in a watched folder.", _FILE,
        {"extension": ".csv"}, {"path_prefix": "inbox/"},
    )
    yield _topic(
        integration, "file.modified", "A file in a watched folder changed.", _FILE,
        {"name": "README.md"}, {"size_gt": 1000000},
    )
    yield _topic(
        integration, "file.deleted", "A file vanished from a watched folder.", _FILE, {"path_prefix": "src/"},
    )
    yield _topic(
        integration, "file.*", "Anything else about files in a watched folder.", _FILE,
        {"extension_in": [".py", ".md"]},
    )
    yield _topic(
        integration, "github.push", f"Commits were pushed to a GitHub repository. {_GITHUB_NOTE}",
        _GITHUB | {
            "ref": _string("Full name of the ref that was pushed to.", "refs/heads/main"),
            "forced": _flag("Whether history was overwritten."),
        },
        {"repository.full_name": "octocat/hello-world", "ref": "refs/heads/main"}, {"forced": True},
    )
    yield _topic(
        integration, "github.pull_request.*",
        f"A GitHub pull request was opened, closed, labelled or otherwise acted on. {_GITHUB_NOTE}",
        _GITHUB | {"number": _integer("Number of the pull request."), "pull_request": _object("The pull request.")},
        {"action_in": ["opened", "closed"]}, {"number": 42},
    )
    yield _topic(
        integration, "github.*",
        "Any other event of a verified GitHub webhook: github.<event>.<action>, or github.<event> when GitHub names "
        f"no action. {_GITHUB_NOTE}",
        _GITHUB,
        {"repository.full_name": "octocat/hello-world"}, {"sender.login_not": "dependabot[bot]"}, {"action": "opened"},
    )
    yield _topic(
        integration, "integration.sync.completed", "A connection to another system finished a sync.",
        {"connection_id": _string("Identifier of the connection."), "records": _integer("Records that were moved.")},
        {"connection_id": "con_123"}, {"records_gt": 0},
    )
    yield _topic(
        integration, "integration.sync.failed", "A connection to another system could not sync.",
        {"connection_id": _string("Identifier of the connection."), "error": _string("What went wrong.")},
        {"error_contains": "unauthorized"},
    )


_CLIENT: _Properties = {
    "client_id": _string("Identifier that the MCP client gave itself."),
    "subject": _string("Whose key the client used."),
}


def _mcp() -> Iterator[TopicDeclaration]:
    mcp = "mcp"
    yield _topic(
        mcp, "mcp.client.connected", "An MCP client opened its push stream.", _CLIENT, {"client_id": "laptop-1"},
    )
    yield _topic(
        mcp, "mcp.client.disconnected", "An MCP client's push stream ended.",
        _CLIENT | {"reason": _string("Why it ended.", "client_gone", "server_stopping", "revoked")},
        {"reason_not": "client_gone"},
    )
    yield _topic(
        mcp, "mcp.subscription.created", "An MCP client subscribed to topics.",
        _CLIENT | {"subscription_id": _string("Identifier of the subscription."), "topics": _strings("Its patterns.")},
        {"client_id": "laptop-1"},
    )
    yield _topic(
        mcp, "mcp.tool.called", "An MCP client called a tool.",
        _CLIENT | {
            "tool": _string("Name of the tool."),
            "is_error": _flag("Whether the call ended in an error."),
            "duration_ms": _integer("Milliseconds that it took."),
        },
        {"tool": "subscribe", "is_error": True}, {"duration_ms_gt": 1000},
    )


_CONSENT: _Properties = {
    "purpose": _string("Purpose that it is about; absent when it is about every purpose.", "marketing", "analytics"),
    "reason": _string("Why, as recorded."),
    "recorded_by": _string("Who recorded it."),
}


def _consent() -> Iterator[TopicDeclaration]:
    consent = "consent"
    yield _topic(consent, "consent.granted", "A person consented.", _CONSENT, {"purpose": "marketing"})
    yield _topic(
        consent, "consent.withdrawn", "A person withdrew consent.", _CONSENT,
        {"purpose_in": ["marketing", "profiling"]}, {"purpose_exists": False},
    )
    yield _topic(
        consent, "consent.expired", "A person's consent reached its expiry.", _CONSENT, {"purpose": "analytics"},
    )
    yield _topic(
        consent, "consent.suppressed", "A person must not be contacted any more.", _CONSENT,
        {"reason_in": ["bounce", "complaint", "stop"]},
    )


def _platform() -> Iterator[TopicDeclaration]:
    platform = "platform"
    yield _topic(
        platform, "platform.user.invited", "Somebody was invited to the workspace.",
        {"email": _string("Address that was invited."), "role": _string("Role that was offered.", "admin", "member")},
        {"role": "admin"},
    )
    yield _topic(
        platform, "platform.key.created", "An API key was created. The key itself is not in the event.",
        {"key_id": _string("Identifier of the key."), "role": _string("Its role.", "publisher", "subscriber", "admin")},
        {"role": "admin"},
    )
    yield _topic(
        platform, "platform.limit.reached", "The workspace reached one of its limits.",
        {"limit": _string("Name of the limit."), "value": _number("The value that was reached.")},
        {"limit": "subscriptions"}, {"value_gte": 1000},
    )
    yield _topic(
        platform, "platform.export.completed", "A data export is ready.",
        {"export_id": _string("Identifier of the export."), "format": _string("File format.", "csv", "ndjson")},
        {"format": "csv"},
    )


def _custom() -> Iterator[TopicDeclaration]:
    yield _topic(
        "custom", "custom.*",
        "Topics that this workspace's own workflows and programs emit; the payload is theirs. These properties are "
        "common.",
        {
            "account_id": _string("Account that the event is about."),
            "severity": _string("How serious it is.", "info", "warning", "critical"),
            "reason": _string("Why it was emitted."),
        },
        {"severity_in": ["warning", "critical"]}, {"account_id": "acc_123"},
    )


BUILT_IN: tuple[TopicDeclaration, ...] = (
    *_crm(),
    *_marketing(),
    *_service(),
    *_ai(),
    *_workflow(),
    *_integration(),
    *_mcp(),
    *_consent(),
    *_platform(),
    *_custom(),
)
"""Every built-in topic and family."""
