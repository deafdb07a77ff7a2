/* SPDX-License-Identifier: MIT */
/* verbs.h - the verbs' entry points; argv[0] is the verb's last word. Each returns the exit code. */
#ifndef FM_CLI_VERBS_H
#define FM_CLI_VERBS_H

int fm_verb_host_ls(int argc, char **argv);
int fm_verb_host_show(int argc, char **argv);
int fm_verb_container_run(int argc, char **argv);
int fm_verb_container_ls(int argc, char **argv);
int fm_verb_container_show(int argc, char **argv);
int fm_verb_container_rm(int argc, char **argv);
int fm_verb_migrate(int argc, char **argv);
int fm_verb_can_migrate(int argc, char **argv);
int fm_verb_migration_ls(int argc, char **argv);
int fm_verb_migration_show(int argc, char **argv);
int fm_verb_migration_watch(int argc, char **argv);
int fm_verb_migration_cancel(int argc, char **argv);
int fm_verb_migration_approve(int argc, char **argv);
int fm_verb_policy_ls(int argc, char **argv);
int fm_verb_policy_check(int argc, char **argv);
int fm_verb_policy_test(int argc, char **argv);
int fm_verb_policy_explain(int argc, char **argv);
int fm_verb_network_show(int argc, char **argv);
int fm_verb_network_path(int argc, char **argv);
int fm_verb_network_check(int argc, char **argv);
int fm_verb_intent_list(int argc, char **argv);
int fm_verb_intent_show(int argc, char **argv);
int fm_verb_predict_backtest(int argc, char **argv);
int fm_verb_host_cordon(int argc, char **argv);
int fm_verb_host_uncordon(int argc, char **argv);
int fm_verb_balance(int argc, char **argv);
int fm_verb_drain(int argc, char **argv);
int fm_verb_consolidate(int argc, char **argv);
int fm_verb_plan_ls(int argc, char **argv);
int fm_verb_plan_show(int argc, char **argv);
int fm_verb_plan_cancel(int argc, char **argv);
int fm_verb_simulate(int argc, char **argv);
int fm_verb_snapshot(int argc, char **argv);
int fm_verb_doctor(int argc, char **argv);
int fm_verb_pki_init(int argc, char **argv);
int fm_verb_pki_issue(int argc, char **argv);
int fm_verb_version(int argc, char **argv);

#endif
