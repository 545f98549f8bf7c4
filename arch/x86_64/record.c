// SPDX-License-Identifier: MIT
/*
 * arch/x86_64/record.c - typed records: written blindly, read with suspicion.
 *
 * Invariant: the reader touches no byte outside [buf, buf + size), whatever they say, and looks at
 * all of them before any is used.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "arch/x86_64/x86.h"

#define RECORD_VERSION 1u
#define RECORD_ALIGN   8u

struct record_head {
	uint32_t type;
	uint32_t version;
	uint64_t size;
};
_Static_assert(sizeof(struct record_head) == 16, "as drawn in x86.h");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "records are written as they lie");

int x86_explain(struct x86_why why, int err, const char *fmt, ...)
{
	va_list args;

	if (why.text && why.size > 0) {
		va_start(args, fmt);
		vsnprintf(why.text, why.size, fmt, args);
		va_end(args);
	}
	return err;
}

static void put_bytes(struct x86_out *out, const void *from, size_t size)
{
	/* Once something did not fit, used is beyond cap and nothing does. */
	if (size > 0 && out->used <= out->cap && size <= out->cap - out->used)
		memcpy(out->buf + out->used, from, size);
	out->used += size;
}

void x86_put(struct x86_out *out, uint32_t type, const void *payload, size_t size)
{
	static const uint8_t zeros[RECORD_ALIGN];
	struct record_head head = {type, RECORD_VERSION, size};

	put_bytes(out, &head, sizeof(head));
	put_bytes(out, payload, size);
	put_bytes(out, zeros, (size_t)(align_up(size, RECORD_ALIGN) - size));
}

int x86_put_done(const struct x86_out *out, size_t *size)
{
	*size = out->used;
	return out->used > out->cap ? -ENOSPC : 0;
}

static int rule_of(const struct x86_record_rule *rules, size_t count, uint32_t type)
{
	for (size_t i = 0; i < count; i++)
		if (rules[i].type == type)
			return (int)i;
	return -ENOENT;
}

static bool size_fits(const struct x86_record_rule *rule, size_t size)
{
	if (size < rule->min || size > rule->max)
		return false;
	return rule->item == 0 || (size - rule->min) % rule->item == 0;
}

/* Take the record at the front of *rest, `left` bytes of which remain. */
static int parse_one(const uint8_t **rest, size_t *left, const struct x86_record_rule *rules,
                     size_t count, struct x86_payload *found, struct x86_why why)
{
	struct record_head head;
	uint64_t padded;
	int i;

	if (*left < sizeof(head))
		return x86_explain(why, -EBADMSG, "saved state ends inside a record's head");
	memcpy(&head, *rest, sizeof(head));
	*rest += sizeof(head);
	*left -= sizeof(head);
	if (head.size > *left)
		return x86_explain(why, -EBADMSG, "record %u is longer than the saved state",
		                   head.type);
	/* Cannot overflow: head.size is at most the size of a buffer in memory. */
	padded = align_up(head.size, RECORD_ALIGN);
	if (padded > *left)
		return x86_explain(why, -EBADMSG, "record %u lacks its padding", head.type);

	i = rule_of(rules, count, head.type);
	if (i < 0)
		return x86_explain(why, -ENOTSUP, "saved state has a record of unknown type %u",
		                   head.type);
	if (head.version != RECORD_VERSION)
		return x86_explain(why, -ENOTSUP, "%s has version %u, only %u is known here",
		                   rules[i].name, head.version, RECORD_VERSION);
	if (found[i].data)
		return x86_explain(why, -EBADMSG, "%s is there twice", rules[i].name);
	if (!size_fits(&rules[i], head.size))
		return x86_explain(why, -EBADMSG, "%s cannot have %llu bytes", rules[i].name,
		                   (unsigned long long)head.size);
	found[i] = (struct x86_payload){*rest, head.size};
	*rest += padded;
	*left -= padded;
	return 0;
}

int x86_parse(const void *buf, size_t size, const struct x86_record_rule *rules, size_t count,
              struct x86_payload *found, struct x86_why why)
{
	const uint8_t *rest = buf;
	size_t left = size;
	int err;

	memset(found, 0, count * sizeof(*found));
	while (left > 0) {
		err = parse_one(&rest, &left, rules, count, found, why);
		if (err)
			return err;
	}
	for (size_t i = 0; i < count; i++)
		if (rules[i].required && !found[i].data)
			return x86_explain(why, -EBADMSG, "%s is missing", rules[i].name);
	return 0;
}

int x86_refused(struct x86_why why, const char *name, int err)
{
	return x86_explain(why, err == -EINVAL ? -ENOTSUP : err,
	                   "this host's KVM refuses the saved %s: %s", name, strerror(-err));
}

/* The largest plain payload is the local APIC's page of registers. */
union plain {
	uint64_t align;
	uint8_t bytes[2048];
};

int x86_plain_save(int fd, const struct x86_record_rule *rule, struct x86_out *out)
{
	union plain arg = {0};
	int err = kvm_ioctl_ptr(fd, rule->get, &arg);

	if (err < 0)
		return err;
	x86_put(out, rule->type, arg.bytes, rule->min);
	return 0;
}

int x86_plain_restore(int fd, const struct x86_record_rule *rule, const struct x86_payload *p,
                      struct x86_why why)
{
	union plain arg;
	int err;

	/* Parsing has seen that the sizes agree. */
	memcpy(arg.bytes, p->data, rule->min);
	err = kvm_ioctl_ptr(fd, rule->set, &arg);
	return err < 0 ? x86_refused(why, rule->name, err) : 0;
}
