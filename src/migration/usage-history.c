/* SPDX-License-Identifier: MIT */
/*
 * usage-history.c - see usage-history.h. Subjects stand in an array of pointers, hosts before containers, each in the order of names.
 *
 * Records: UsageRecord of the contract, kind "usage" in the store, name HOST@HOUR. A container that moves is in two hosts' records of that hour, with the same values; loading puts both.
 */
#include "migration/usage-history.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

#include "basic/cleanup.h"
#include "basic/clock.h"
#include "basic/limits.h"
#include "migration/pb.h"
#include "migration/usage.h"

#define KIND            "usage"
#define HOUR_MS         3600000ull
#define STEPS_AN_HOUR   (HOUR_MS / FM_SERIES_LONG_STEP_MS)
#define KEPT_MS         ((uint64_t)FM_SERIES_LONG * FM_SERIES_LONG_STEP_MS)
#define RECORD_BYTES    (1000u << 10) /* the store takes 1 MiB */
#define VERDICT_OVER_MS 15000         /* what a verdict looks at is the mean of so long: a second says nothing */

struct subject {
	char *name;
	bool host;
	char at[FM_MAX_NAME]; /* of a container: the host that reported it last */
	uint64_t heard_ms;
	uint64_t written_step; /* of a host: the 5 minutes that were written last */
	struct fm_load_state load;
	struct fm_load_figures figures;
	struct fm_series series[_FM_USAGE_KINDS];
};

struct fm_usage_history {
	pthread_mutex_t lock;
	struct fm_store *store;
	struct fm_load_limits limits;
	struct fm_log *log;
	struct subject **v;
	size_t n, cap;
	uint64_t pruned_hour;
};

/* ---------------------------------------------------------------- subjects; under the lock */

static int compare(const struct subject *s, bool host, const char *name)
{
	return s->host != host ? (s->host ? -1 : 1) : strcmp(s->name, name);
}

/* Where it is, or belongs. */
static size_t place_of(const struct fm_usage_history *h, bool host, const char *name)
{
	size_t low = 0, high = h->n;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if (compare(h->v[middle], host, name) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static struct subject *find(const struct fm_usage_history *h, bool host, const char *name)
{
	size_t i = place_of(h, host, name);

	return i < h->n && compare(h->v[i], host, name) == 0 ? h->v[i] : NULL;
}

static void subject_free(struct subject *s)
{
	free(s->name);
	free(s);
}

static void forget_oldest(struct fm_usage_history *h)
{
	size_t oldest = 0;

	for (size_t i = 1; i < h->n; i++)
		if (h->v[i]->heard_ms < h->v[oldest]->heard_ms)
			oldest = i;
	subject_free(h->v[oldest]);
	h->n--;
	memmove(&h->v[oldest], &h->v[oldest + 1], (h->n - oldest) * sizeof(*h->v));
}

static struct subject *find_or_add(struct fm_usage_history *h, bool host, const char *name)
{
	struct subject *s = find(h, host, name);

	if (s)
		return s;
	if (h->n == FM_MAX_USAGE_SERIES)
		forget_oldest(h);
	if (h->n == h->cap) {
		size_t cap = h->cap ? h->cap * 2 : 64;
		struct subject **grown = realloc(h->v, cap * sizeof(*grown));
		if (!grown)
			return NULL;
		h->v = grown;
		h->cap = cap;
	}
	s = calloc(1, sizeof(*s));
	if (!s)
		return NULL;
	*s = (struct subject){ .name = fm_xstrdup(name), .host = host };
	for (int k = 0; k < _FM_USAGE_KINDS; k++)
		fm_series_init(&s->series[k]);
	size_t i = place_of(h, host, name);
	memmove(&h->v[i + 1], &h->v[i], (h->n - i) * sizeof(*h->v));
	h->v[i] = s;
	h->n++;
	return s;
}

/* ---------------------------------------------------------------- records */

static uint64_t first_step_of(uint64_t hour)
{
	return hour * STEPS_AN_HOUR;
}

/* false: nothing is known of it in this hour */
static bool add_series(FM_PB(UsageRecord) * r, const struct subject *s, uint64_t hour)
{
	size_t n = STEPS_AN_HOUR * _FM_USAGE_KINDS;
	float *values = calloc(n, sizeof(*values));
	bool any = false;

	if (!values)
		return false;
	for (size_t i = 0; i < n; i++) {
		values[i] = fm_ring_at(&s->series[i % _FM_USAGE_KINDS].fives, first_step_of(hour) + i / _FM_USAGE_KINDS);
		any = any || !isnan(values[i]);
	}
	if (!any) {
		free(values);
		return false;
	}
	FM_PB(UsageSeries) *series = FM_PB_NEW(UsageSeries, usage_series);
	fm_pb_set(&series->name, s->name);
	series->host = s->host;
	series->values = values;
	series->n_values = n;
	FM_PB_ADD(r->series, r->n_series, series);
	return true;
}

static FM_PB(UsageRecord) * make_record(const struct fm_usage_history *h, const struct subject *host, uint64_t hour)
{
	FM_PB(UsageRecord) *r = FM_PB_NEW(UsageRecord, usage_record);
	size_t bytes = 0;

	r->from_unix_ms = hour * HOUR_MS;
	r->step_ms = FM_SERIES_LONG_STEP_MS;
	r->kinds = _FM_USAGE_KINDS;
	(void)add_series(r, host, hour);
	for (size_t i = 0; i < h->n && bytes < RECORD_BYTES; i++)
		if (!h->v[i]->host && fm_streq(h->v[i]->at, host->name) && add_series(r, h->v[i], hour))
			bytes += STEPS_AN_HOUR * _FM_USAGE_KINDS * sizeof(float) + strlen(h->v[i]->name) + 16;
	return r;
}

static void write_record(struct fm_usage_history *h, const char *host, const FM_PB(UsageRecord) * r)
{
	size_t len = protobuf_c_message_get_packed_size(&r->base);
	_fm_free_ uint8_t *b = malloc(len + 1);
	_fm_free_ char *name = fm_xasprintf("%s@%llu", host, (unsigned long long)(r->from_unix_ms / HOUR_MS));

	if (!b || !r->n_series)
		return;
	protobuf_c_message_pack(&r->base, b);
	/* Should it fail: a cache that is behind. The hour is written again 5 minutes later. */
	(void)fm_store_record_keep(h->store, KIND, name, r->from_unix_ms, b, len, NULL);
}

/* The hour of the last 5 minutes that are complete, if they are not written yet; NULL otherwise. Under the lock. */
static FM_PB(UsageRecord) * record_due(struct fm_usage_history *h, struct subject *host, uint64_t now_ms)
{
	uint64_t complete = now_ms / FM_SERIES_LONG_STEP_MS - 1;

	if (host->written_step >= complete)
		return NULL;
	bool first = !host->written_step; /* since this start: what is complete now, an earlier one has written */
	host->written_step = complete;
	return first ? NULL : make_record(h, host, complete / STEPS_AN_HOUR);
}

static void load_series(struct fm_usage_history *h, const FM_PB(UsageSeries) * s, uint64_t from_ms, const char *host)
{
	uint64_t step = from_ms / FM_SERIES_LONG_STEP_MS;
	struct subject *subject = s->name[0] && strlen(s->name) <= 127 ? find_or_add(h, s->host, s->name) : NULL;

	if (!subject)
		return;
	for (size_t i = 0; i < s->n_values && i < STEPS_AN_HOUR * _FM_USAGE_KINDS; i++)
		if (isfinite(s->values[i]) && s->values[i] >= 0)
			fm_ring_put(&subject->series[i % _FM_USAGE_KINDS].fives, step + i / _FM_USAGE_KINDS, s->values[i]);
	if (from_ms + HOUR_MS < subject->heard_ms)
		return;
	subject->heard_ms = from_ms + HOUR_MS;
	(void)snprintf(subject->at, sizeof(subject->at), "%s", host);
}

static int load_record(void *userdata, const char *kind, const char *name, const void *blob, size_t len, uint64_t at_ms)
{
	struct fm_usage_history *h = userdata;
	_fm_pb_ FM_PB(UsageRecord) *r = fleximigrate__v1__usage_record__unpack(NULL, len, blob);
	uint64_t now_ms = fm_realtime_ms();

	if (!r || r->step_ms != FM_SERIES_LONG_STEP_MS || r->kinds != _FM_USAGE_KINDS || r->from_unix_ms % HOUR_MS != 0 ||
	    r->from_unix_ms > now_ms || r->from_unix_ms + KEPT_MS < now_ms)
		return 0; /* of another version, or older than what is kept */
	_fm_free_ char *host = fm_xasprintf("%.*s", (int)strcspn(name, "@"), name);
	for (size_t i = 0; i < r->n_series; i++)
		load_series(h, r->series[i], r->from_unix_ms, host);
	return 0;
}

int fm_usage_history_new(struct fm_store *store, const struct fm_load_limits *limits, struct fm_log *log, struct fm_usage_history **ret,
                         struct fm_error *err)
{
	struct fm_usage_history *h = calloc(1, sizeof(*h));

	if (!h)
		return fm_error_set(err, FM_E_RESOURCE_EXHAUSTED, "out of memory");
	*h = (struct fm_usage_history){ .store = store, .limits = limits ? *limits : FM_LOAD_LIMITS_DEFAULT, .log = log };
	pthread_mutex_init(&h->lock, NULL);
	if (fm_load_limits_check(&h->limits, err) < 0 || fm_store_record_each(store, KIND, load_record, h, err) < 0) {
		fm_usage_history_free(h);
		return -1;
	}
	*ret = h;
	return 0;
}

static void write_all(struct fm_usage_history *h)
{
	for (size_t i = 0; i < h->n; i++) {
		if (!h->v[i]->host || !h->v[i]->written_step)
			continue; /* heard of in this run */
		_fm_pb_ FM_PB(UsageRecord) *r = make_record(h, h->v[i], h->v[i]->heard_ms / HOUR_MS);
		write_record(h, h->v[i]->name, r);
	}
}

void fm_usage_history_free(struct fm_usage_history *h)
{
	if (!h)
		return;
	write_all(h);
	for (size_t i = 0; i < h->n; i++)
		subject_free(h->v[i]);
	free(h->v);
	pthread_mutex_destroy(&h->lock);
	free(h);
}

/* ---------------------------------------------------------------- reports */

static double known(uint64_t v)
{
	return v == FM_USAGE_UNKNOWN ? NAN : (double)v;
}

static void add_host(struct subject *s, const FM_PB(HostUsage) * m, uint64_t now_ms)
{
	struct fm_host_usage u;

	fm_usage_host_figures(m, &u);
	double total = known(u.memory_total_bytes), used = total - known(u.memory_available_bytes);
	fm_series_add(&s->series[FM_USAGE_CPU], now_ms, u.cpu_percent);
	fm_series_add(&s->series[FM_USAGE_MEMORY], now_ms, total > 0 && used >= 0 ? used * 100 / total : NAN);
	fm_series_add(&s->series[FM_USAGE_NETWORK], now_ms, known(u.network_in_bytes_per_s) + known(u.network_out_bytes_per_s));
	fm_series_add(&s->series[FM_USAGE_DIRTY], now_ms, known(u.disk_read_bytes_per_s) + known(u.disk_write_bytes_per_s));
}

static void add_container(struct subject *s, const FM_PB(ContainerUsage) * m, uint64_t now_ms)
{
	struct fm_container_usage u;

	fm_usage_container_figures(m, &u);
	fm_series_add(&s->series[FM_USAGE_CPU], now_ms, u.cpu_cores);
	fm_series_add(&s->series[FM_USAGE_MEMORY], now_ms,
	              known(u.working_set_bytes == FM_USAGE_UNKNOWN ? u.memory_bytes : u.working_set_bytes));
	fm_series_add(&s->series[FM_USAGE_NETWORK], now_ms, known(u.network_in_bytes_per_s) + known(u.network_out_bytes_per_s));
	fm_series_add(&s->series[FM_USAGE_DIRTY], now_ms, known(u.dirty_bytes_per_s));
}

static double mean_now(const struct subject *s, enum fm_usage_kind kind, uint64_t now_ms, uint64_t over_ms)
{
	return fm_ring_mean(&s->series[kind].recent, now_ms > over_ms ? now_ms - over_ms : 0);
}

static void judge(struct fm_usage_history *h, struct subject *s, const FM_PB(Host) * host, uint64_t now_ms)
{
	struct fm_load_figures f = { .v = { mean_now(s, FM_USAGE_CPU, now_ms, VERDICT_OVER_MS),
		                            mean_now(s, FM_USAGE_MEMORY, now_ms, VERDICT_OVER_MS), NAN, NAN } };
	char why[160];

	for (size_t i = 0; i < host->n_peers && i < FM_MAX_PEERS; i++) {
		double loss = host->peers[i]->loss_ppm / 1e4, latency = (double)host->peers[i]->latency_us / 1000;
		f.v[FM_LOAD_LOSS] = f.v[FM_LOAD_LOSS] >= loss ? f.v[FM_LOAD_LOSS] : loss;
		f.v[FM_LOAD_LATENCY] = f.v[FM_LOAD_LATENCY] >= latency ? f.v[FM_LOAD_LATENCY] : latency;
	}
	s->figures = f;
	enum fm_load before = s->load.load;
	if (!fm_load_step(&h->limits, &s->load, &f, fm_now_ms()) || !h->log || before == FM_LOAD_UNKNOWN)
		return;
	const struct fm_log_fields fields = { .host = s->name, .action = "load" };
	fm_load_explain(&h->limits, &s->load, &f, fm_now_ms(), why, sizeof(why));
	if (s->load.load == FM_LOAD_OVER)
		fm_log_write(h->log, FM_LOG_WARN, "ResourceMonitor", &fields, "Host '%s' is used too much: %s.", s->name, why);
	else if (s->load.load == FM_LOAD_UNDER)
		fm_log_write(h->log, FM_LOG_INFO, "ResourceMonitor", &fields, "Host '%s' is used little: %s.", s->name, why);
	else
		fm_log_write(h->log, FM_LOG_INFO, "ResourceMonitor", &fields, "Host '%s' is used normally again.", s->name);
}

static void take_containers(struct fm_usage_history *h, const FM_PB(ReportRequest) * r, uint64_t now_ms)
{
	for (size_t i = 0; i < r->n_containers; i++) {
		const FM_PB(Container) *c = r->containers[i];
		struct subject *s;
		if (!c->usage || fm_streq(c->status, "incoming") || fm_streq(c->status, "outgoing") ||
		    !(s = find_or_add(h, false, c->name)))
			continue;
		s->heard_ms = now_ms;
		(void)snprintf(s->at, sizeof(s->at), "%s", r->host->name);
		add_container(s, c->usage, now_ms);
	}
}

static bool prune_due(struct fm_usage_history *h, uint64_t now_ms)
{
	bool due = h->pruned_hour != now_ms / HOUR_MS;

	h->pruned_hour = now_ms / HOUR_MS;
	return due;
}

void fm_usage_history_report(struct fm_usage_history *h, const FM_PB(ReportRequest) * r, uint64_t now_unix_ms)
{
	_fm_pb_ FM_PB(UsageRecord) *due = NULL;
	bool prune = false;

	if (!h || !r->host->usage)
		return;
	pthread_mutex_lock(&h->lock);
	struct subject *s = find_or_add(h, true, r->host->name);
	if (s) {
		s->heard_ms = now_unix_ms;
		add_host(s, r->host->usage, now_unix_ms);
		take_containers(h, r, now_unix_ms);
		if ((s = find(h, true, r->host->name))) { /* unless it had to make room */
			judge(h, s, r->host, now_unix_ms);
			due = record_due(h, s, now_unix_ms);
		}
		prune = due && prune_due(h, now_unix_ms);
	}
	pthread_mutex_unlock(&h->lock);
	if (due)
		write_record(h, r->host->name, due);
	if (prune)
		(void)fm_store_record_prune(h->store, KIND, now_unix_ms > KEPT_MS + HOUR_MS ? now_unix_ms - KEPT_MS - HOUR_MS : 0, NULL);
}

/* ---------------------------------------------------------------- questions */

static bool copy_series(struct fm_usage_history *h, bool host, const char *name, enum fm_usage_kind kind, struct fm_series *ret)
{
	if (!h)
		return false;
	pthread_mutex_lock(&h->lock);
	const struct subject *s = find(h, host, name);
	if (s)
		fm_series_copy(ret, &s->series[kind]);
	pthread_mutex_unlock(&h->lock);
	return s != NULL;
}

bool fm_usage_history_host(struct fm_usage_history *h, const char *name, enum fm_usage_kind kind, struct fm_series *ret)
{
	return copy_series(h, true, name, kind, ret);
}

bool fm_usage_history_container(struct fm_usage_history *h, const char *name, enum fm_usage_kind kind, struct fm_series *ret)
{
	return copy_series(h, false, name, kind, ret);
}

double fm_usage_history_now(struct fm_usage_history *h, bool host, const char *name, enum fm_usage_kind kind, uint64_t now_unix_ms)
{
	double mean = NAN;

	if (!h)
		return NAN;
	pthread_mutex_lock(&h->lock);
	const struct subject *s = find(h, host, name);
	if (s)
		mean = mean_now(s, kind, now_unix_ms, 60000);
	pthread_mutex_unlock(&h->lock);
	return mean;
}

void fm_usage_history_load(struct fm_usage_history *h, FM_PB(Host) * host)
{
	char why[160] = "";
	enum fm_load load = FM_LOAD_UNKNOWN;

	if (!h)
		return;
	pthread_mutex_lock(&h->lock);
	const struct subject *s = find(h, true, host->name);
	if (s && s->load.seen_ms && fm_now_ms() - s->load.seen_ms < FM_LOAD_GAP_MS) {
		load = s->load.load;
		fm_load_explain(&h->limits, &s->load, &s->figures, fm_now_ms(), why, sizeof(why));
	}
	pthread_mutex_unlock(&h->lock);
	fm_pb_set(&host->load, fm_load_to_string(load));
	fm_pb_set(&host->load_reason, why);
}
