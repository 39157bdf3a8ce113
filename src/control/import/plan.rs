//! What a file comes to, given what the store has: objects to write, or faults.
//!
//! Reads in few large steps, one noun after the other, because each names the one
//! before it. Nothing is written here; the same file planned again after it was
//! written comes to nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use uuid::Uuid;

use crate::control::environment::{fresh, updated};
use crate::control::error::Error;
use crate::control::import::Asked;
use crate::control::import::faults::Faults;
use crate::control::import::lines::{File, Numbered};
use crate::control::import::{hosts, pointers};
use crate::control::source::outside;
use crate::model::deployment::Deployment;
use crate::model::environment::Environment;
use crate::model::id::{EnvironmentId, ProjectId};
use crate::model::name::{DeploymentRef, EnvironmentName, ProjectName};
use crate::model::pool::Pool;
use crate::model::project::Project;
use crate::model::promotion::Promotion;
use crate::rest::environments::UpdateEnvironment;
use crate::rest::error::ErrorCode;
use crate::rest::transfer::{DeploymentLine, EnvironmentLine, Tally};
use crate::store::Transaction;

/// What a file comes to.
pub(super) struct Plan {
    pub projects: Vec<Project>,
    pub deployments: Vec<Deployment>,
    /// New ones, and those that are to be different.
    pub environments: Vec<Draft>,
    pub pools: Vec<Pool>,
    /// Still without their revision.
    pub moves: Vec<Promotion>,
    pub tallies: Tallies,
    /// Names in URLs that were not asked for yet, with the first line that has each.
    pub unresolved: BTreeMap<String, u64>,
}

/// How much of a file is new, different or there already.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tallies {
    pub projects: Tally,
    pub deployments: Tally,
    pub environments: Tally,
    pub pointers: Tally,
}

/// An environment on its way from what it was to what the file says.
pub(super) struct Draft {
    /// The line that brought it here.
    pub line: u64,
    /// Whether a line describes it, rather than its project or a pointer naming it.
    pub described: bool,
    pub before: Option<Environment>,
    pub after: Environment,
}

impl Plan {
    /// Whether everything is there already.
    pub fn is_empty(&self) -> bool {
        self.projects.is_empty() && self.deployments.is_empty() && self.environments.is_empty()
    }
}

impl Draft {
    fn is_different(&self) -> bool {
        self.before.as_ref() != Some(&self.after)
    }
}

/// Judges a file.
pub(super) async fn plan(tx: &mut Transaction, file: &File, asked: &Asked<'_>) -> Result<Plan, Error> {
    let mut sketch =
        Sketch { asked, faults: Faults::default(), tallies: Tallies::default(), drafts: Drafts::default() };
    let (projects, new_projects) = sketch.projects(tx, file).await?;
    let deployments = sketch.deployments(tx, file, &projects).await?;
    sketch.environments(tx, file, &projects, &new_projects).await?;
    hosts::check(tx, &sketch.drafts, &mut sketch.faults).await?;
    let moved = pointers::plan(tx, file, &projects, &deployments, &mut sketch).await?;
    let Sketch { faults, mut tallies, drafts, .. } = sketch;
    faults.refuse()?;

    tallies.projects.created = new_projects.len() as u64;
    let now = asked.caller.at;
    let mut environments: Vec<Draft> = drafts.all.into_iter().filter(Draft::is_different).collect();
    environments.iter_mut().for_each(|draft| draft.after.updated_at = now);
    Ok(Plan {
        projects: new_projects.into_iter().map(|numbered| numbered.said).collect(),
        deployments: deployments.into_values().filter(|found| found.is_new).map(|found| found.deployment).collect(),
        environments,
        pools: moved.pools,
        moves: moved.moves,
        tallies,
        unresolved: moved.unresolved,
    })
}

/// A plan in the making.
pub(super) struct Sketch<'a> {
    pub asked: &'a Asked<'a>,
    pub faults: Faults,
    pub tallies: Tallies,
    pub drafts: Drafts,
}

/// The environments that a file is about.
#[derive(Default)]
pub(super) struct Drafts {
    pub all: Vec<Draft>,
    by_name: HashMap<(ProjectId, EnvironmentName), usize>,
    by_id: HashMap<EnvironmentId, usize>,
}

impl Drafts {
    pub fn named(&mut self, project: ProjectId, name: &EnvironmentName) -> Option<&mut Draft> {
        let at = *self.by_name.get(&(project, name.clone()))?;
        self.all.get_mut(at)
    }

    pub fn of_id(&self, id: EnvironmentId) -> Option<&Draft> {
        self.all.get(*self.by_id.get(&id)?)
    }

    fn add(&mut self, draft: Draft) {
        self.by_name.insert((draft.after.project, draft.after.name.clone()), self.all.len());
        self.by_id.insert(draft.after.id, self.all.len());
        self.all.push(draft);
    }
}

/// Projects by name: those of the store and those of the file.
pub(super) type Projects = HashMap<ProjectName, Project>;

/// Deployments by project and ref, oldest first where they are new.
pub(super) type Deployments = BTreeMap<(ProjectId, DeploymentRef), Found>;

/// A deployment that a file names.
pub(super) struct Found {
    pub deployment: Deployment,
    pub is_new: bool,
    /// The line that describes it, if one does.
    line: Option<u64>,
}

impl Sketch<'_> {
    async fn projects(
        &mut self,
        tx: &mut Transaction,
        file: &File,
    ) -> Result<(Projects, Vec<Numbered<Project>>), Error> {
        let named: BTreeSet<&ProjectName> = (file.projects.iter().map(|line| &line.said.name))
            .chain(file.deployments.iter().map(|line| &line.said.project))
            .chain(file.environments.iter().map(|line| &line.said.project))
            .chain(file.pointers.iter().map(|line| &line.said.project))
            .collect();
        let named: Vec<ProjectName> = named.into_iter().cloned().collect();
        let found = tx.projects_named(&named).await?;
        let mut projects: Projects = found.into_iter().map(|project| (project.name.clone(), project)).collect();
        let (mut lines, mut new) = (HashMap::new(), Vec::new());
        for Numbered { line, said } in &file.projects {
            if let Some(first) = lines.insert(&said.name, *line) {
                self.repeats(*line, first, "project");
            } else if projects.contains_key(&said.name) {
                self.tallies.projects.unchanged += 1;
            } else {
                let created_at = self.asked.caller.at;
                let project = Project { id: Uuid::now_v7().into(), name: said.name.clone(), created_at };
                projects.insert(said.name.clone(), project.clone());
                new.push(Numbered { line: *line, said: project });
            }
        }
        Ok((projects, new))
    }

    async fn deployments(
        &mut self,
        tx: &mut Transaction,
        file: &File,
        projects: &Projects,
    ) -> Result<Deployments, Error> {
        let described = file.deployments.iter().map(|line| (&line.said.project, &line.said.reference));
        let pointed = file.pointers.iter().map(|line| (&line.said.project, &line.said.reference));
        let named: BTreeSet<(ProjectId, &DeploymentRef)> =
            described.chain(pointed).filter_map(|(project, name)| Some((projects.get(project)?.id, name))).collect();
        let named: Vec<_> = named.into_iter().map(|(project, name)| (project, name.clone())).collect();
        let found = tx.deployments_named(&named).await?.into_iter();
        let mut deployments: Deployments = found
            .map(|deployment| {
                ((deployment.project, deployment.reference.clone()), Found { deployment, is_new: false, line: None })
            })
            .collect();
        for Numbered { line, said } in &file.deployments {
            if let Some(project) = self.project(*line, projects, &said.project)
                && let Err(error) = self.deployment(*line, said, project, &mut deployments)
            {
                self.faults.add(*line, &error);
            }
        }
        Ok(deployments)
    }

    fn deployment(
        &mut self,
        line: u64,
        said: &DeploymentLine,
        project: ProjectId,
        deployments: &mut Deployments,
    ) -> Result<(), Error> {
        let source = outside(said.source.clone(), &self.asked.config.own_listeners)?;
        let key = (project, said.reference.clone());
        if let Some(found) = deployments.get_mut(&key) {
            let there = &found.deployment;
            let same = there.source == source
                && said.message.as_ref().is_none_or(|message| there.message.as_ref() == Some(message))
                && said.git_commit.as_ref().is_none_or(|commit| there.git_commit.as_ref() == Some(commit));
            if let Some(first) = found.line.replace(line) {
                self.repeats(line, first, "deployment");
            } else if same {
                self.tallies.deployments.unchanged += 1;
            } else {
                let told = format!(
                    "deployment {} is there with another source, message or commit, and deployments never change; give it another ref",
                    said.reference
                );
                self.faults.say(line, ErrorCode::NameTaken, told);
            }
            return Ok(());
        }
        crate::control::api::check_deployment_texts(said.message.as_ref(), said.git_commit.as_ref())?;
        let deployment = Deployment {
            id: Uuid::now_v7().into(),
            reference: said.reference.clone(),
            project,
            source,
            message: said.message.clone(),
            git_commit: said.git_commit.clone(),
            created_by: self.asked.caller.actor.clone(),
            created_at: self.asked.caller.at,
        };
        self.tallies.deployments.created += 1;
        deployments.insert(key, Found { deployment, is_new: true, line: Some(line) });
        Ok(())
    }

    async fn environments(
        &mut self,
        tx: &mut Transaction,
        file: &File,
        projects: &Projects,
        new: &[Numbered<Project>],
    ) -> Result<(), Error> {
        let described = file.environments.iter().map(|line| (&line.said.project, &line.said.name));
        let pointed = file.pointers.iter().map(|line| (&line.said.project, &line.said.environment));
        let named: BTreeSet<(ProjectId, &EnvironmentName)> =
            described.chain(pointed).filter_map(|(project, name)| Some((projects.get(project)?.id, name))).collect();
        let named: Vec<_> = named.into_iter().map(|(project, name)| (project, name.clone())).collect();
        for environment in tx.environments_named(&named).await? {
            self.drafts.add(Draft { line: 0, described: false, before: Some(environment.clone()), after: environment });
        }
        for Numbered { line, said } in &file.environments {
            if self.project(*line, projects, &said.project).is_some() {
                self.environment(*line, said, &projects[&said.project]);
            }
        }
        // After those that the file describes, so that they are made in its order.
        for Numbered { line, said } in new {
            for name in EnvironmentName::DEFAULTS {
                let name = name.parse().map_err(|_| Error::Internal("a default environment has no valid name"))?;
                if self.drafts.named(said.id, &name).is_none() {
                    self.start(*line, said, name);
                }
            }
        }
        for draft in &self.drafts.all {
            match &draft.before {
                None => self.tallies.environments.created += 1,
                Some(before) if *before != draft.after => self.tallies.environments.changed += 1,
                Some(_) => self.tallies.environments.unchanged += u64::from(draft.described),
            }
        }
        Ok(())
    }

    /// An environment as its names alone make it.
    fn start(&mut self, line: u64, project: &Project, name: EnvironmentName) {
        match fresh(self.asked.config, project, name, self.asked.caller.at) {
            Ok(after) => self.drafts.add(Draft { line, described: false, before: None, after }),
            Err(error) => self.faults.add(line, &error),
        }
    }

    fn environment(&mut self, line: u64, said: &EnvironmentLine, project: &Project) {
        if self.drafts.named(project.id, &said.name).is_none() {
            self.start(line, project, said.name.clone());
        }
        let Some(draft) = self.drafts.named(project.id, &said.name) else { return };
        if std::mem::replace(&mut draft.described, true) {
            let first = draft.line;
            return self.repeats(line, first, "environment");
        }
        draft.line = line;
        let ask = UpdateEnvironment {
            hosts: said.hosts.clone(),
            policy: said.policy.clone(),
            min_replicas: said.min_replicas,
            max_replicas: said.max_replicas,
            locked: said.locked,
            locked_reason: said.locked_reason.clone(),
        };
        match updated(self.asked.config, &draft.after, ask) {
            Ok(after) => draft.after = after,
            Err(error) => self.faults.add(line, &error),
        }
    }

    /// The project that a line names, or that there is none.
    pub fn project(&mut self, line: u64, projects: &Projects, name: &ProjectName) -> Option<ProjectId> {
        let found = projects.get(name);
        if found.is_none() {
            let told = format!(
                "there is no project {name}, neither here nor in the file; add the line {{\"kind\":\"project\",\"name\":\"{name}\"}}"
            );
            self.faults.say(line, ErrorCode::ProjectNotFound, told);
        }
        found.map(|project| project.id)
    }

    pub fn repeats(&mut self, line: u64, first: u64, noun: &str) {
        let told = format!("line {first} describes this {noun} already; keep one of the two");
        self.faults.say(line, ErrorCode::InvalidRequest, told);
    }
}
