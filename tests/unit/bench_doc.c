// SPDX-License-Identifier: MIT
#include "tests/unit/bench_doc.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

json_t *doc_of(const char *text)
{
	char *copy = strdup(text);
	json_error_t e;
	json_t *doc;

	cr_assert(copy);
	for (char *at = copy; *at; at++)
		if (*at == '\'')
			*at = '"';
	doc = json_loads(copy, 0, &e);
	cr_assert(doc, "%d: %s", e.column, e.text);
	free(copy);
	return doc;
}

json_t *doc_faults(void)
{
	return doc_of(
		"{'schema':1,'command':'faults','build':'b','parameters':{'pattern':'random',"
		"'size':67108864,'vcpus':1,'record':null,'repeat':5},'baseline':'kernel-4k',"
		"'host':{'kernel':'Linux 6.18 x86_64','kvm':{'kind':'svm','told_by':'module "
		"kvm_amd'},'cpu':'A CPU','cpus':2,'load':[0.5,0.25,0.125],'thp':'madvise',"
		"'shmem_thp':'never','nx_huge_pages':'N','huge_pages':{'2m':3,'1g':0},"
		"'memory':{'total_bytes':2147483648,'available_bytes':1073741824},"
		"'cgroup':{'path':'/a','memory_max_bytes':null,'cpu_max':1.5}},"
		"'noisy':false,'warnings':[],'rows':["
		"{'name':'auto','us_per_page':0.9,'us_per_page_spread':[0.8,1.0],"
		"'pages_per_s':1111111.0,'pages_per_s_spread':[1000000.0,1250000.0],"
		"'latency_ns':{'count':1000,'mean':900,'p50':90,'p90':100,'p99':150,'p99.9':450000,"
		"'max':500000},'kinds':{'zero':{'count':1000,'mean':900,'p50':90,'p90':100,"
		"'p99':150,'p99.9':450000,'max':500000},'cow':{'count':0,'p50':null}},"
		"'violations':32,'events':32,'committed_bytes':67108864,'private_bytes':0,"
		"'kvm':{'pf_taken':40},'cdf':[[90,0.5],[150,0.99],[450000,1.0]],"
		"'ratio_to':{'kernel-4k':27.5},'ratio_spread':{'kernel-4k':[27.0,28.1]}},"
		"{'name':'kernel-4k','us_per_page':24.75,'us_per_page_spread':[20.0,30.0],"
		"'pages_per_s':40404.0,'pages_per_s_spread':[33333.0,50000.0],"
		"'latency_ns':{'count':1000,'mean':25000,'p50':24700,'p90':26000,'p99':31000,"
		"'p99.9':45000,'max':123456},'violations':0,'events':0,"
		"'committed_bytes':67108864,'private_bytes':0,'prepare_us':null,"
		"'cdf':[[24700,0.5],[31000,0.99],[123456,1.0]]}]}");
}

json_t *doc_row(json_t *doc, size_t index)
{
	json_t *row = json_array_get(json_object_get(doc, "rows"), index);

	cr_assert(row);
	return row;
}

char *doc_put(const json_t *doc, enum report_form form)
{
	char *text = NULL;
	size_t size;
	FILE *to = open_memstream(&text, &size);

	cr_assert(to);
	cr_assert_eq(report_put(doc, form, to), 0);
	cr_assert_eq(fclose(to), 0);
	return text;
}

void expect_text(const char *got, const char *expected)
{
	unsigned line = 1;

	while (*got && *got == *expected) {
		line += *got == '\n';
		got++;
		expected++;
	}
	cr_assert(*got == *expected, "line %u: got '%.60s', expected '%.60s'", line, got, expected);
}
