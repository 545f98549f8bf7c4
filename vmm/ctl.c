// SPDX-License-Identifier: MIT
/*
 * vmm/ctl.c - the listening side of a control socket.
 *
 * Each connection has a thread, which reads a line, has it answered, writes the reply. Nobody waits
 * for a peer: time-outs on the socket end what hangs, and ctl_stop() shuts all sockets for reading,
 * and for writing those whose peer does not read. The listening thread joins the others when they
 * are done.
 */
#include "vmm/ctl.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "vmm/console.h"
#include "vmm/ctl_internal.h"

#define NAP_NS     10000000
#define LOCK_TRIES 100u

/* To read a reply, when all comes to an end. */
#define LAST_NS UINT64_C(1000000000)
#define LOOK_MS 100

struct client {
	struct ctl *ctl;
	struct client *next;
	pthread_t thread;
	int fd;
	bool done;        /* lock: its thread touches nothing but its own end */
	uint64_t sent_ns; /* lock: since when it sends its reply, 0: it does not */
	size_t len;
	char line[CTL_LINE_MAX + 1]; /* what has come of the present request, and more */
};

struct ctl {
	struct ctl_config config; /* its path is `address` */
	struct sockaddr_un address;
	struct stat file; /* what we have made there */
	int listener;
	int wake; /* eventfd: look at `stop` and at who is done */
	pthread_t thread;
	pthread_mutex_t lock;
	struct client *clients; /* lock */
	unsigned count;         /* of them, the listening thread's */
	bool stop;              /* lock */
};

static void wake(const struct ctl *c)
{
	const uint64_t one = 1;

	while (write(c->wake, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

static bool is_stopped(struct ctl *c)
{
	bool stop;

	pthread_mutex_lock(&c->lock);
	stop = c->stop;
	pthread_mutex_unlock(&c->lock);
	return stop;
}

static void take_nap(void)
{
	const struct timespec nap = {0, NAP_NS};

	nanosleep(&nap, NULL);
}

/* ---- the file ---- */

/* The directory that holds `path`, locked. Return: a descriptor; -EBUSY; -errno. */
static int lock_directory(const char *path)
{
	char copy[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
	int fd;

	memcpy(copy, path, strlen(path) + 1);
	fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	for (unsigned i = 0; i < LOCK_TRIES; i++) {
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return fd;
		if (errno != EWOULDBLOCK && errno != EINTR)
			break;
		take_nap();
	}
	close(fd);
	return -EBUSY;
}

/* Nothing is there, or nothing any more. Return: 0; -EADDRINUSE; -EEXIST; -errno. */
static int clear_path(const struct sockaddr_un *address)
{
	struct stat st;
	int fd, r;

	if (lstat(address->sun_path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	r = connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ? -errno : 0;
	close(fd);
	if (r != -ECONNREFUSED)
		return r == 0 || r == -EAGAIN ? -EADDRINUSE : r;
	return unlink(address->sun_path) < 0 ? -errno : 0;
}

/*
 * `dir`: its directory, locked. A socket that is bound and does not listen yet refuses whoever
 * comes early: so it gets its name when it listens, and has another until then, whose path always
 * fits. The file has its mode from the moment it is there.
 */
static int bind_and_listen(struct ctl *c, int dir)
{
	struct sockaddr_un early = {.sun_family = AF_UNIX};
	int r;

	snprintf(early.sun_path, sizeof(early.sun_path), "/proc/self/fd/%d/.cowslip-%d", dir,
	         (int)getpid());
	r = clear_path(&c->address);
	if (r == 0)
		r = clear_path(&early);
	if (r)
		return r;
	if (fchmod(c->listener, 0600) < 0 ||
	    bind(c->listener, (struct sockaddr *)&early, sizeof(early)) < 0)
		return -errno;
	if (listen(c->listener, CTL_CLIENTS) == 0 && lstat(early.sun_path, &c->file) == 0 &&
	    rename(early.sun_path, c->address.sun_path) == 0)
		return 0;
	r = -errno;
	unlink(early.sun_path);
	return r;
}

static int make_file(struct ctl *c)
{
	int r, dir = lock_directory(c->address.sun_path);

	if (dir < 0)
		return dir;
	r = bind_and_listen(c, dir);
	close(dir);
	return r;
}

/* Unless somebody has put another there. */
static void remove_file(const struct ctl *c)
{
	int dir = lock_directory(c->address.sun_path);
	struct stat st;

	if (lstat(c->address.sun_path, &st) == 0 && st.st_ino == c->file.st_ino &&
	    st.st_dev == c->file.st_dev)
		unlink(c->address.sun_path);
	if (dir >= 0)
		close(dir);
}

static const char *why(int code)
{
	switch (code) {
	case -EADDRINUSE:
		return "another cowslip listens there; name another file";
	case -EEXIST:
		return "it is there and no socket; name another file";
	case -EBUSY:
		return "its directory is locked by another program";
	default:
		return strerror(-code);
	}
}

/* ---- a connection ---- */

static void note_sending(struct client *k, uint64_t since_ns)
{
	pthread_mutex_lock(&k->ctl->lock);
	k->sent_ns = since_ns;
	pthread_mutex_unlock(&k->ctl->lock);
}

/* Answer a line, or what is none. Return: 0, or the connection is to end. */
static int reply(struct client *k, const char *line)
{
	const struct ctl_config *config = &k->ctl->config;
	char *text;
	int r;

	if (is_stopped(k->ctl))
		return -ESHUTDOWN;
	text = config->answer(config->ctx, line);
	note_sending(k, clock_ns());
	r = text ? ctl_send(k->fd, text, strlen(text)) : -ENOMEM;
	if (r == 0)
		r = ctl_send(k->fd, "\n", 1);
	note_sending(k, 0);
	free(text);
	return r;
}

/* All whole lines that are there. Return: 0, or the connection is to end. */
static int answer_lines(struct client *k)
{
	char *at = k->line, *end;
	int r = 0;

	while (r == 0 && (end = memchr(at, '\n', k->len - (size_t)(at - k->line)))) {
		bool text = !memchr(at, '\0', (size_t)(end - at));

		*end = '\0';
		if (end > at && end[-1] == '\r')
			end[-1] = '\0';
		r = reply(k, text ? at : NULL);
		if (r == 0 && !text)
			r = -EBADMSG;
		at = end + 1;
	}
	k->len -= (size_t)(at - k->line);
	memmove(k->line, at, k->len);
	if (r == 0 && k->len == sizeof(k->line)) {
		(void)reply(k, NULL);
		r = -EMSGSIZE;
	}
	return r;
}

/* A byte now and then does not make a peer one that is served. */
static bool out_of_patience(uint64_t since_ns)
{
	return clock_ns() - since_ns > CTL_PATIENCE_S * UINT64_C(1000000000);
}

static void *client_main(void *arg)
{
	struct client *k = arg;
	struct ctl *c = k->ctl;
	uint64_t since = clock_ns();

	for (;;) {
		ssize_t n = recv(k->fd, k->line + k->len, sizeof(k->line) - k->len, 0);
		size_t had = k->len;

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0 || out_of_patience(since))
			break;
		k->len += (size_t)n;
		if (answer_lines(k))
			break;
		if (k->len < had + (size_t)n)
			since = clock_ns();
	}
	shutdown(k->fd, SHUT_RDWR);
	pthread_mutex_lock(&c->lock);
	k->done = true;
	pthread_mutex_unlock(&c->lock);
	wake(c);
	return NULL;
}

/* ---- the listening thread ---- */

static void join_client(struct ctl *c, struct client *k)
{
	pthread_join(k->thread, NULL);
	close(k->fd);
	free(k);
	c->count--;
}

/* Those that are done. */
static void join_clients(struct ctl *c)
{
	struct client *over = NULL, *k;

	pthread_mutex_lock(&c->lock);
	for (struct client **at = &c->clients; (k = *at);) {
		if (!k->done) {
			at = &k->next;
			continue;
		}
		*at = k->next;
		k->next = over;
		over = k;
	}
	pthread_mutex_unlock(&c->lock);
	while ((k = over)) {
		over = k->next;
		join_client(c, k);
	}
}

static void set_patience(int fd)
{
	const struct timeval t = {.tv_sec = CTL_PATIENCE_S};

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t));
}

/* One that cannot be served sees its connection closed. */
static void take_client(struct ctl *c)
{
	int fd = accept4(c->listener, NULL, NULL, SOCK_CLOEXEC);
	struct client *k = fd >= 0 && c->count < CTL_CLIENTS ? malloc(sizeof(*k)) : NULL;

	if (!k) {
		if (fd >= 0)
			close(fd);
		else
			take_nap(); /* out of descriptors: it would be here again at once */
		return;
	}
	k->ctl = c;
	k->fd = fd;
	k->done = false;
	k->sent_ns = 0;
	k->len = 0;
	set_patience(fd);
	pthread_mutex_lock(&c->lock);
	if (pthread_create(&k->thread, NULL, client_main, k) == 0) {
		k->next = c->clients;
		c->clients = k;
		c->count++;
		k = NULL;
	}
	pthread_mutex_unlock(&c->lock);
	if (k) {
		close(fd);
		free(k);
	}
}

/* Whoever waits for a request's next byte finds the end. */
static void shut_clients(struct ctl *c)
{
	pthread_mutex_lock(&c->lock);
	for (struct client *k = c->clients; k; k = k->next)
		shutdown(k->fd, SHUT_RD);
	pthread_mutex_unlock(&c->lock);
}

/* Whoever does not read its reply has had its time. */
static void cut_clients(struct ctl *c)
{
	uint64_t now = clock_ns();

	pthread_mutex_lock(&c->lock);
	for (struct client *k = c->clients; k; k = k->next)
		if (k->sent_ns && now - k->sent_ns > LAST_NS)
			shutdown(k->fd, SHUT_RDWR);
	pthread_mutex_unlock(&c->lock);
}

/* What is under way is answered, however long that takes. */
static void end_clients(struct ctl *c)
{
	struct pollfd wake = {.fd = c->wake, .events = POLLIN};
	uint64_t count;

	shut_clients(c);
	for (join_clients(c); c->count > 0; join_clients(c)) {
		if (poll(&wake, 1, LOOK_MS) > 0)
			(void)!read(c->wake, &count, sizeof(count));
		cut_clients(c);
	}
}

static void *listener_main(void *arg)
{
	struct ctl *c = arg;
	struct pollfd fds[] = {
		{.fd = c->wake, .events = POLLIN},
		{.fd = c->listener, .events = POLLIN},
	};
	uint64_t count;

	while (!is_stopped(c)) {
		if (poll(fds, 2, -1) < 0)
			continue;
		if (fds[0].revents && read(c->wake, &count, sizeof(count)) > 0)
			join_clients(c);
		if (fds[1].revents)
			take_client(c);
	}
	end_clients(c);
	return NULL;
}

/* ---- start and stop ---- */

static void free_ctl(struct ctl *c)
{
	if (c->wake >= 0)
		close(c->wake);
	if (c->listener >= 0)
		close(c->listener);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

int ctl_start(const struct ctl_config *config, struct ctl **out, struct vm_error *err)
{
	struct ctl *c = calloc(1, sizeof(*c));
	int r;

	if (!c)
		return ctl_fail(err, -ENOMEM, config->path, "out of memory");
	c->config = *config;
	c->listener = c->wake = -1;
	pthread_mutex_init(&c->lock, NULL);
	r = ctl_address(config->path, &c->address, err);
	if (r)
		goto free_it;
	c->config.path = c->address.sun_path;
	c->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	c->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	r = c->wake < 0 || c->listener < 0 ? -errno : make_file(c);
	if (r == 0) {
		r = -pthread_create(&c->thread, NULL, listener_main, c);
		if (r)
			remove_file(c);
	}
	if (r) {
		ctl_fail(err, r, config->path, why(r));
		goto free_it;
	}
	*out = c;
	return 0;

free_it:
	free_ctl(c);
	return r;
}

void ctl_stop(struct ctl *c)
{
	if (!c)
		return;
	pthread_mutex_lock(&c->lock);
	c->stop = true;
	pthread_mutex_unlock(&c->lock);
	wake(c);
	/* From here on nobody finds us; who has, is answered. */
	remove_file(c);
	pthread_join(c->thread, NULL);
	free_ctl(c);
}
