/* SPDX-License-Identifier: MIT */
/*
 * show.c - a migration on screen: one line that changes on a terminal, the log lines elsewhere, JSON for scripts; and its summary at the end.
 *
 * Ctrl-C asks the manager to cancel (it rolls back; the screen shows how) and a second one only stops watching.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "cli/cli.h"
#include "decision/strategy.h"
#include "loop/pool.h"
#include "migration/state.h"

struct screen {
	const struct fm_client_options *o;
	const char *id;
	uint64_t seq;
	bool terminal, json_events;
	FM_PB(Migration) * outcome;
};

static const char *format_pause(const FM_PB(Migration) * m, char *buf, size_t cap)
{
	uint64_t now = fm_realtime_ms(), since = m->pause->since_unix_ms;
	(void)snprintf(buf, cap, "%s for %llu s: pages are missing (%llu), and %s", m->sub_state,
	               (unsigned long long)(now > since ? (now - since) / 1000 : 0), (unsigned long long)m->pause->pages_missing,
	               m->pause->reason);
	return buf;
}

static void clear_progress(const struct screen *s)
{
	if (s->terminal)
		printf("\r\033[K");
}

static void show_progress(const struct screen *s, const FM_PB(Migration) * m)
{
	char pause[320];
	if (!s->terminal)
		return;
	printf("\r\033[K%s: %s", fm_state_to_string((enum fm_state)m->state), m->step);
	if (m->pages_total)
		printf(", pages %llu %%", (unsigned long long)(m->pages_done * 100 / m->pages_total));
	if (m->pause)
		printf(", %s", format_pause(m, pause, sizeof(pause)));
	if (m->wire_bytes) {
		char bytes[32];
		printf(", %s sent", fm_format_bytes(m->wire_bytes, bytes, sizeof(bytes)));
	}
	(void)fflush(stdout);
}

static int on_event(void *userdata, const ProtobufCMessage *message)
{
	struct screen *s = userdata;
	const FM_PB(Event) *e = (const FM_PB(Event) *)message;
	s->seq = e->seq;
	if (s->json_events) {
		fm_print_json(message);
	} else if (e->line[0] && !fm_client_wants_json(s->o)) {
		clear_progress(s);
		printf("%s\n", e->line);
		(void)fflush(stdout);
	}
	if (e->migration) {
		if (!fm_client_wants_json(s->o))
			show_progress(s, e->migration);
		fm_pb_free(s->outcome);
		s->outcome = fm_pb_copy(e->migration);
	}
	return e->last;
}

/* Side by side with what came of it */
static void print_prediction(const FM_PB(Migration) * m)
{
	const FM_PB(Plan) *p = m->plan;
	char predicted[32], sent[32];
	if (!p || !p->cost_case)
		return;
	printf("  predicted downtime %llu ms (%.0f to %.0f)", (unsigned long long)p->predicted_downtime_ms, p->downtime_low_ms,
	       p->downtime_high_ms);
	if (m->frozen_us)
		printf(", was %.1f ms", (double)m->frozen_us / 1000);
	printf("; total %llu ms (%.0f to %.0f)", (unsigned long long)p->predicted_total_ms, p->total_low_ms, p->total_high_ms);
	if (m->finished_unix_ms)
		printf(", was %llu ms", (unsigned long long)(m->finished_unix_ms - m->created_unix_ms));
	printf("; %s", fm_format_bytes(p->predicted_wire_bytes, predicted, sizeof(predicted)));
	if (m->wire_bytes)
		printf(", was %s", fm_format_bytes(m->wire_bytes, sent, sizeof(sent)));
	printf("\n");
}

void fm_print_migration_summary(const FM_PB(Migration) * m)
{
	char bytes[32], pause[320];
	printf("Migration %s: container '%s' from '%s' to '%s', %s: %s\n", m->id, m->container, m->source[0] ? m->source : "?",
	       m->destination, fm_strategy_to_string((enum fm_strategy)m->strategy), fm_state_to_string((enum fm_state)m->state));
	printf("  path      %s\n", m->path);
	if (m->pause)
		printf("  pause     %s; it ends by itself when that is over\n", format_pause(m, pause, sizeof(pause)));
	else if (m->sub_state[0])
		printf("  waits     %s: %s\n", m->sub_state, m->step);
	if (m->finished_unix_ms)
		printf("  total     %llu ms\n", (unsigned long long)(m->finished_unix_ms - m->created_unix_ms));
	if (m->frozen_us)
		printf("  downtime  %.1f ms (source fenced to destination running)\n", (double)m->frozen_us / 1000);
	if (m->wire_bytes)
		printf("  sent      %s\n", fm_format_bytes(m->wire_bytes, bytes, sizeof(bytes)));
	if (m->pages_total)
		printf("  pages     %llu of %llu fetched after the switch-over\n", (unsigned long long)m->pages_done,
		       (unsigned long long)m->pages_total);
	print_prediction(m);
	if (m->throttle_percent)
		printf("  throttled to %u %% of its processor time before the switch-over\n", 100 - m->throttle_percent);
	for (size_t i = 0; i < m->n_phases; i++)
		printf("  %-12s  %.1f ms\n", m->phases[i]->name, (double)m->phases[i]->duration_us / 1000);
	if (m->error_code) {
		printf("  reason    %s%s%s%s\n", m->error_message, m->error_phase[0] ? " (while in " : "", m->error_phase,
		       m->error_phase[0] ? ")" : "");
		if (m->error_hint[0])
			printf("  hint      %s\n", m->error_hint);
	}
	if (m->lost_service_ms)
		printf("  warning   writes acknowledged on '%s' in its last %llu ms may be missing\n", m->destination,
		       (unsigned long long)m->lost_service_ms);
}

static void cancel(const struct fm_client_options *o, struct fm_rpc_client *client, const char *id)
{
	FM_PB(IdRequest) req = FLEXIMIGRATE__V1__ID_REQUEST__INIT;
	struct fm_error err = FM_ERROR_INIT;
	ProtobufCMessage *resp = NULL;
	req.id = (char *)id;
	fprintf(stderr, "Cancelling migration %s (Ctrl-C again: stop watching) …\n", id);
	if (fm_rpc_client_call(client, &fm_manager_methods[FM_MANAGER_CANCEL_MIGRATION], &req.base, 10000, -1, &resp, &err) < 0)
		fprintf(stderr, "fleximigrate: %s\n", err.message);
	fm_pb_free(resp);
}

static int conclude(struct screen *s)
{
	const FM_PB(Migration) *m = s->outcome;
	clear_progress(s);
	if (!m)
		return 1;
	if (fm_client_wants_json(s->o)) {
		if (!s->json_events)
			fm_print_json(&m->base);
	} else {
		fm_print_migration_summary(m);
	}
	return m->state == FLEXIMIGRATE__V1__STATE__COMPLETED ? 0 : 1;
}

int fm_show_migration(const struct fm_client_options *o, struct fm_rpc_client *client, const char *id, bool cancel_on_interrupt)
{
	struct screen s = { .o = o,
		            .id = id,
		            .terminal = isatty(STDOUT_FILENO) && !fm_client_wants_json(o),
		            .json_events = fm_client_wants_json(o) && !cancel_on_interrupt };
	struct fm_error err = FM_ERROR_INIT;
	_fm_close_ int signals = -1;
	bool interrupted = false;
	if (fm_signals_block(&signals, &err) < 0)
		return fm_cli_fail(o, &err);
	for (;;) {
		FM_PB(WatchRequest) req = FLEXIMIGRATE__V1__WATCH_REQUEST__INIT;
		req.id = (char *)id;
		req.after_seq = s.seq;
		err = FM_ERROR_INIT;
		int rc = fm_rpc_client_stream(client, &fm_manager_methods[FM_MANAGER_WATCH_MIGRATION], &req.base, 24 * 3600 * 1000, signals,
		                              on_event, &s, &err);
		if (rc == 0)
			break;
		struct signalfd_siginfo si;
		if (err.code != FM_E_CANCELLED || read(signals, &si, sizeof(si)) != sizeof(si) || interrupted || !cancel_on_interrupt) {
			clear_progress(&s);
			fm_pb_free(s.outcome);
			if (err.code == FM_E_CANCELLED)
				fprintf(stderr, "\nNot watching any more; migration %s goes on: 'fleximigrate migration watch %s'\n", id,
				        id);
			return fm_cli_fail(o, &err);
		}
		interrupted = true;
		cancel(o, client, id);
	}
	int rc = conclude(&s);
	fm_pb_free(s.outcome);
	return interrupted && rc ? 130 : rc;
}
