// SPDX-License-Identifier: MIT
/*
 * tests/kvm/test_devices.c - the doorbell and the devices under guests that mean harm, and the bus
 * and the serial port on their own.
 */
#include <errno.h>
#include <string.h>

#include "tests/kvm/lab.h"
#include "tests/kvm/script.h"
#include "vmm/bus.h"
#include "vmm/serial.h"

#define POOL (256 * MIB)

static struct vm *scripted(const struct lab *l, enum fault_choice faults, struct tape *t)
{
	struct vm_config c = lab_config(l, SCRIPT_RAM, 1, faults, t);
	struct vm *vm = lab_make(&c);

	script_boot(vm);
	return vm;
}

static void do_steps(struct vm *vm, const struct step *steps, size_t count)
{
	script_list(vm, 0, steps, count);
}

/* ---- requests that are none ---- */

/* A bell rung for a place that is no RAM, or only in part: a crash, and the VMM lives on. */
TEST_BOTH_PATHS(devices, requests_outside_ram)
{
	static const uint64_t places[] =
		{
			SCRIPT_RAM,           SCRIPT_RAM - 8, /* its head leaves RAM */
			SCRIPT_RAM - 31,      SCRIPT_RAM + 0x1000,
			UINT64_C(0xd0000000), /* the doorbell itself */
			UINT64_C(1) << 32,    UINT64_C(1) << 63,
			UINT64_MAX - 1,       UINT64_MAX - 31,
			UINT64_MAX - 4095,
		};
	struct lab l;

	lab_open(&l, POOL);
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		struct vm *vm = scripted(&l, faults, NULL);
		const struct step ring = {STEP_RING, places[i], 0};
		struct vm_report r;

		do_steps(vm, &ring, 1);
		r = lab_run(vm);
		cr_assert_eq(r.event, VM_CRASHED, "%#lx: event %d", places[i], r.event);
		cr_assert(strstr(r.text, "outside RAM"), "%s", r.text);
		lab_audit(&l, vm);
		vm_destroy(vm);
	}
	lab_close(&l);
}

/* The value that means "silent" inside, and half a store, ring nothing. */
Test(devices, rings_that_are_none)
{
	const struct step list[] = {
		{STEP_RING, UINT64_MAX, 0},
		{STEP_RING32, SCRIPT_REQUEST, 0},
		{STEP_RING, SCRIPT_REQUEST + 0x1000, 0},
	};
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	vm = scripted(&l, FAULTS_AUTO, NULL);
	script_request(vm, SCRIPT_REQUEST, ABI_EXIT, 1, 0, 0);
	script_request(vm, SCRIPT_REQUEST + 0x1000, ABI_EXIT, 2, 0, 0);
	do_steps(vm, list, 3);
	lab_expect(vm, VM_EXITED, 2);
	vm_destroy(vm);
	lab_close(&l);
}

/* READY at the very end of RAM: nobody can be told who it is. */
Test(devices, no_room_for_the_answer)
{
	const uint64_t at = SCRIPT_RAM - 40;
	const struct step ring = {STEP_RING, at, 0};
	struct image *image;
	struct vm_config c;
	struct vm_error err;
	struct vm_report r;
	struct vm *vm, *clone;
	struct lab l;

	lab_open(&l, POOL);
	vm = scripted(&l, FAULTS_AUTO, NULL);
	script_request(vm, at, ABI_READY, 0, 0, 0);
	do_steps(vm, &ring, 1);
	lab_expect(vm, VM_READY, 0);
	image = lab_snapshot(vm);
	r = lab_run(vm);
	cr_assert_eq(r.event, VM_CRASHED, "event %d: %s", r.event, r.text);
	cr_assert(strstr(r.text, "answer"), "%s", r.text);
	c = lab_config(&l, 0, 0, FAULTS_AUTO, NULL);
	c.image = image;
	c.number = 1;
	cr_assert_eq(vm_create(&c, &clone, &err), -EFAULT);
	cr_assert(strstr(err.text, "identity"), "%s", err.text);
	image_put(image);
	vm_destroy(vm);
	lab_close(&l);
}

/* A request may end on RAM's last byte. */
Test(devices, last_bytes_of_ram)
{
	const uint64_t at = SCRIPT_RAM - sizeof(struct abi_request);
	const uint64_t head = SCRIPT_RAM - offsetof(struct abi_request, clone);
	const struct step list[] = {{STEP_RING, at, 0}, {STEP_RING, head, 0}};
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	vm = scripted(&l, FAULTS_AUTO, NULL);
	script_request(vm, at, ABI_READY, 0, 0, 0);
	do_steps(vm, list, 2);
	lab_expect(vm, VM_READY, 0);
	script_request(vm, head, ABI_EXIT, 3, 0, 0);
	lab_expect(vm, VM_EXITED, 3);
	vm_destroy(vm);
	lab_close(&l);
}

/* ---- requests that lie ---- */

TEST_BOTH_PATHS(devices, writes_that_lie)
{
	static const struct {
		uint64_t buf, size;
		int32_t result;
	} cases[] = {
		{SCRIPT_DATA, 0, 0},
		{UINT64_MAX, 0, 0},
		{SCRIPT_DATA, ABI_WRITE_MAX, ABI_WRITE_MAX},
		{SCRIPT_DATA, ABI_WRITE_MAX + 1, -EMSGSIZE},
		{SCRIPT_DATA, UINT64_MAX, -EMSGSIZE},
		{SCRIPT_DATA, UINT64_C(1) << 32, -EMSGSIZE},
		{SCRIPT_DATA, (UINT64_C(1) << 32) + 1, -EMSGSIZE},
		{SCRIPT_RAM, 1, -EFAULT},
		{SCRIPT_RAM - 1, 1, 1},
		{SCRIPT_RAM - 1, 2, -EFAULT},
		{SCRIPT_RAM - 4096, 8192, -EFAULT},
		{UINT64_MAX - 7, 16, -EFAULT},
		{UINT64_MAX - ABI_WRITE_MAX + 1, ABI_WRITE_MAX, -EFAULT},
		{UINT64_C(0xd0000000), 4096, -EFAULT},
	};
	const size_t count = sizeof(cases) / sizeof(cases[0]);
	static struct tape t;
	struct step list[sizeof(cases) / sizeof(cases[0]) + 1];
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	vm = scripted(&l, faults, &t);
	for (size_t i = 0; i <= count; i++)
		list[i] = (struct step){STEP_RING, SCRIPT_REQUEST + i * 64, 0};
	for (size_t i = 0; i < count; i++)
		script_request(vm, list[i].a, ABI_WRITE, 0, cases[i].buf, cases[i].size);
	script_request(vm, list[count].a, ABI_EXIT, 0, 0, 0);
	do_steps(vm, list, count + 1);
	lab_expect(vm, VM_EXITED, 0);
	for (size_t i = 0; i < count; i++)
		cr_assert_eq(script_result(vm, list[i].a), cases[i].result, "case %zu: %d", i,
		             script_result(vm, list[i].a));
	lab_audit(&l, vm);
	vm_destroy(vm);
	lab_close(&l);
}

Test(devices, unknown_operations)
{
	static const uint32_t ops[] = {0, ABI_IDENTITY + 1, 255, 0x80000000u, UINT32_MAX};
	struct step list[6];
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	vm = scripted(&l, FAULTS_AUTO, NULL);
	for (size_t i = 0; i < 6; i++) {
		list[i] = (struct step){STEP_RING, SCRIPT_REQUEST + i * 64, 0};
		script_request(vm, list[i].a, i < 5 ? ops[i] : ABI_EXIT, UINT64_MAX, 0, 0);
	}
	do_steps(vm, list, 6);
	/* A code beyond what a process can exit with is cut, not wrapped to 0. */
	lab_expect(vm, VM_EXITED, 255);
	for (size_t i = 0; i < 5; i++)
		cr_assert_eq(script_result(vm, list[i].a), -ENOSYS);
	vm_destroy(vm);
	lab_close(&l);
}

/* A crash report whose registers lie nowhere is still a report. */
Test(devices, crash_reports_that_lie)
{
	static const uint64_t places[] = {SCRIPT_DATA, SCRIPT_RAM, SCRIPT_RAM - 8, UINT64_MAX - 3};
	struct lab l;

	lab_open(&l, POOL);
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		struct vm *vm = scripted(&l, FAULTS_AUTO, NULL);
		const struct step ring = {STEP_RING, SCRIPT_REQUEST, 0};
		struct abi_crash worst;
		struct vm_report r;

		memset(&worst, 0xff, sizeof(worst));
		cr_assert_eq(space_write(vm_space(vm), (gpa_t){SCRIPT_DATA}, &worst, sizeof(worst)),
		             0);
		script_request(vm, SCRIPT_REQUEST, ABI_CRASH, UINT64_MAX, places[i], 0);
		do_steps(vm, &ring, 1);
		r = lab_run(vm);
		cr_assert_eq(r.event, VM_CRASHED);
		cr_assert(strstr(r.text, "trap 18446744073709551615"), "%s", r.text);
		cr_assert_lt(strlen(r.text), sizeof(r.text) - 1, "cut off");
		vm_destroy(vm);
	}
	lab_close(&l);
}

/*
 * What READY says, and who asks: a booted VM is number 0, the same one each time, with entropy that
 * is another each time.
 */
Test(devices, ready_twice)
{
	const uint64_t ask = SCRIPT_REQUEST + 0x1000;
	const struct step list[] = {{STEP_RING, SCRIPT_REQUEST, 0},
	                            {STEP_RING, ask, 0},
	                            {STEP_RING, SCRIPT_REQUEST, 0}};
	const uint8_t none[ABI_ENTROPY] = {0};
	struct abi_request a, b, c;
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	vm = scripted(&l, FAULTS_AUTO, NULL);
	script_request(vm, SCRIPT_REQUEST, ABI_READY, 0, 0, 0);
	script_request(vm, ask, ABI_IDENTITY, 0, 0, 0);
	do_steps(vm, list, 3);
	lab_expect(vm, VM_READY, 0);
	cr_assert_eq(script_result(vm, SCRIPT_REQUEST), -1);
	lab_expect(vm, VM_READY, 0);
	script_answer(vm, SCRIPT_REQUEST, &a);
	script_answer(vm, ask, &c);
	lab_expect(vm, VM_CRASHED, 0);
	script_answer(vm, SCRIPT_REQUEST, &b);
	cr_assert(a.result == 0 && a.clone == 0 && a.args_len == 0);
	cr_assert_neq(memcmp(a.entropy, none, sizeof(none)), 0);
	cr_assert_neq(memcmp(a.entropy, b.entropy, sizeof(a.entropy)), 0);
	cr_assert(c.result == 0 && c.clone == 0 && c.args_len == 0);
	cr_assert_neq(memcmp(a.entropy, c.entropy, sizeof(a.entropy)), 0);
	cr_assert_eq(a.generation, b.generation);
	cr_assert_eq(a.generation, c.generation);
	vm_destroy(vm);
	lab_close(&l);
}

/* ---- the bus ---- */

struct probe {
	struct bus_access last;
	unsigned reads, writes;
};

static void probe_read(void *dev, const struct bus_access *a, void *data)
{
	struct probe *p = dev;

	p->last = *a;
	p->reads++;
	memset(data, 0x5a, a->len);
}

static void probe_write(void *dev, const struct bus_access *a, const void *data)
{
	struct probe *p = dev;

	(void)data;
	p->last = *a;
	p->writes++;
}

static const struct device_ops probe_ops = {
	.name = "probe",
	.read = probe_read,
	.write = probe_write,
};

Test(devices, bus_ranges)
{
	struct bus b = {0};
	struct probe p = {0};

	cr_assert_eq(bus_add(&b, 0x1000, 0, &probe_ops, &p), -EINVAL);
	cr_assert_eq(bus_add(&b, UINT64_MAX, 2, &probe_ops, &p), -EINVAL);
	cr_assert_eq(bus_add(&b, 0x1000, 0x100, &probe_ops, &p), 0);
	cr_assert_eq(bus_add(&b, 0x10ff, 1, &probe_ops, &p), -EEXIST);
	cr_assert_eq(bus_add(&b, 0xfff, 2, &probe_ops, &p), -EEXIST);
	cr_assert_eq(bus_add(&b, 0x1, 0x10000, &probe_ops, &p), -EEXIST);
	for (unsigned i = 1; i < BUS_MAX; i++)
		cr_assert_eq(bus_add(&b, 0x1000 + i * 0x100, 0x100, &probe_ops, &p), 0);
	cr_assert_eq(bus_add(&b, 0x100000, 1, &probe_ops, &p), -ENOSPC);
}

Test(devices, bus_accesses)
{
	struct bus b = {0};
	struct probe p = {0}, q = {0};
	uint8_t data[8] = {0};

	cr_assert_eq(bus_add(&b, 0x1000, 0x10, &probe_ops, &p), 0);
	cr_assert_eq(bus_add(&b, 0x1010, 0x10, &probe_ops, &q), 0);
	cr_assert(bus_read(&b, 0x100c, 4, 3, data));
	cr_assert(p.last.offset == 0xc && p.last.len == 4 && p.last.cpu == 3 && data[3] == 0x5a);
	cr_assert_not(bus_read(&b, 0x100d, 4, 0, data), "half in one, half in the other");
	cr_assert_not(bus_write(&b, 0xfff, 2, 0, data));
	cr_assert_not(bus_write(&b, 0x101f, 2, 0, data));
	cr_assert_not(bus_write(&b, UINT64_MAX, 8, 0, data));
	cr_assert(bus_write(&b, 0x101f, 1, 1, data));
	cr_assert(q.writes == 1 && q.last.offset == 0xf && q.last.cpu == 1);
	cr_assert(p.reads == 1 && p.writes == 0 && q.reads == 0);
}

/* ---- the serial port ---- */

static uint8_t port_in(struct serial *s, unsigned reg)
{
	uint8_t v = 0;

	serial_ops.read(s, &(struct bus_access){reg, 1, 0}, &v);
	return v;
}

static void port_out(struct serial *s, unsigned reg, uint8_t v)
{
	serial_ops.write(s, &(struct bus_access){reg, 1, 0}, &v);
}

/* What a driver does to find and set up a 16550. */
Test(devices, serial_as_a_driver_sees_it)
{
	static struct tape t;
	struct console console;
	struct serial s;

	console_init(&console, tape_write, NULL, &t);
	serial_init(&s, &console);
	port_out(&s, 7, 0xa5);
	cr_assert_eq(port_in(&s, 7), 0xa5, "scratch register");
	port_out(&s, 3, 0x80);
	port_out(&s, 0, 0x01);
	port_out(&s, 1, 0x02);
	cr_assert(port_in(&s, 0) == 0x01 && port_in(&s, 1) == 0x02, "divisor");
	port_out(&s, 3, 0x03);
	cr_assert_eq(port_in(&s, 0), 0, "nothing received");
	cr_assert_eq(port_in(&s, 1), 0, "the divisor is not the interrupt enable register");
	port_out(&s, 1, 0xff);
	cr_assert_eq(port_in(&s, 1), 0x0f);
	port_out(&s, 1, 0);
	cr_assert_eq(port_in(&s, 2), 0x01);
	port_out(&s, 2, 0x01);
	cr_assert_eq(port_in(&s, 2), 0xc1);
	cr_assert_eq(port_in(&s, 5) & 0x61, 0x60, "ready to send, nothing received");
	cr_assert_eq(t.total, 0, "set-up prints nothing");
	for (const char *p = "serial"; *p; p++)
		port_out(&s, 0, (uint8_t)*p);
	cr_assert_str_eq(t.text, "serial");
	cr_assert_eq(console.bytes, 6);
	cr_assert_gt(console.first_ns, 0);
	serial_fini(&s);
	console_fini(&console);
}

Test(devices, serial_saved)
{
	static struct tape t;
	struct console console;
	struct serial_regs saved, again;
	struct serial s, copy;

	console_init(&console, tape_write, NULL, &t);
	serial_init(&s, &console);
	serial_init(&copy, &console);
	port_out(&s, 3, 0x80);
	port_out(&s, 0, 12);
	port_out(&s, 4, 0xff);
	port_out(&s, 7, 77);
	serial_save(&s, &saved);
	serial_restore(&copy, &saved);
	serial_save(&copy, &again);
	cr_assert_eq(memcmp(&saved, &again, sizeof(saved)), 0);
	cr_assert(port_in(&copy, 3) == 0x80 && port_in(&copy, 0) == 12);
	cr_assert(port_in(&copy, 4) == 0x1f && port_in(&copy, 7) == 77);
	serial_fini(&s);
	serial_fini(&copy);
	console_fini(&console);
}

/* The port and the doorbell print on one console, in order. */
TEST_BOTH_PATHS(devices, two_ways_to_print)
{
	static struct tape t;
	const struct step list[] = {
		{STEP_PRINT, SCRIPT_DATA, 3},
		{STEP_RING, SCRIPT_REQUEST, 0},
		{STEP_PRINT, SCRIPT_DATA + 3, 3},
		{STEP_RING, SCRIPT_REQUEST + 64, 0},
	};
	struct lab l;
	struct vm *vm;

	lab_open(&l, POOL);
	vm = scripted(&l, faults, &t);
	cr_assert_eq(space_write(vm_space(vm), (gpa_t){SCRIPT_DATA}, "abcdefxyz", 9), 0);
	script_request(vm, SCRIPT_REQUEST, ABI_WRITE, 0, SCRIPT_DATA + 6, 3);
	script_request(vm, SCRIPT_REQUEST + 64, ABI_EXIT, 0, 0, 0);
	do_steps(vm, list, 4);
	lab_expect(vm, VM_EXITED, 0);
	cr_assert_str_eq(t.text, "abcxyzdef");
	vm_destroy(vm);
	lab_close(&l);
}
