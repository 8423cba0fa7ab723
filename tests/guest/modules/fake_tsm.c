// SPDX-License-Identifier: GPL-2.0
/*
 * A TSM provider without a confidential machine: behind it are the kernel's own configfs-tsm
 * (Documentation/ABI/testing/configfs-tsm) and, in place of firmware, a program (relay.h).
 */
#include <linux/module.h>
#include <linux/string.h>
#include <linux/tsm.h>
#include <linux/umh.h>

#include "relay.h"

static char *provider = "sev_guest";
module_param(provider, charp, 0444);
MODULE_PARM_DESC(provider, "sev_guest or tdx_guest: which attributes there are");

/* Plays the chip where there is nobody else to: a worker's machine has no other programs. */
#define CHIP "/chip/chip"

static bool is_snp;

static int fake_report_new(struct tsm_report *report, void *data)
{
	u8 *evidence, *certificates;
	size_t evidence_bytes, certificates_bytes;
	int result;

	/* As the real providers have it. */
	if (report->desc.inblob_len != RELAY_DATA_BYTES)
		return -EINVAL;
	result = relay_ask(report->desc.inblob, report->desc.privlevel, &evidence, &evidence_bytes,
			   &certificates, &certificates_bytes);
	if (result)
		return result;
	report->outblob = evidence;
	report->outblob_len = evidence_bytes;
	report->auxblob = certificates;
	report->auxblob_len = certificates_bytes;
	return 0;
}

static bool fake_attribute_visible(int attribute)
{
	switch (attribute) {
	case TSM_REPORT_GENERATION:
	case TSM_REPORT_PROVIDER:
		return true;
	case TSM_REPORT_PRIVLEVEL:
	case TSM_REPORT_PRIVLEVEL_FLOOR:
		return is_snp;
	default:
		return false;
	}
}

static bool fake_blob_visible(int attribute)
{
	switch (attribute) {
	case TSM_REPORT_INBLOB:
	case TSM_REPORT_OUTBLOB:
		return true;
	case TSM_REPORT_AUXBLOB:
		return is_snp;
	default:
		return false;
	}
}

static struct tsm_ops fake_ops = {
	.report_new = fake_report_new,
	.report_attr_visible = fake_attribute_visible,
	.report_bin_attr_visible = fake_blob_visible,
};

static int __init fake_tsm_init(void)
{
	int result;

	is_snp = !strcmp(provider, "sev_guest");
	if (!is_snp && strcmp(provider, "tdx_guest"))
		return -EINVAL;
	fake_ops.name = provider;
	result = misc_register(&relay_device);
	if (result)
		return result;
	result = tsm_register(&fake_ops, NULL);
	if (result) {
		misc_deregister(&relay_device);
		return result;
	}
	/* Where it is not there, somebody else plays it. */
	call_usermodehelper(CHIP, (char *[]){ CHIP, NULL }, (char *[]){ NULL }, UMH_WAIT_EXEC);
	return 0;
}

static void __exit fake_tsm_exit(void)
{
	tsm_unregister(&fake_ops);
	misc_deregister(&relay_device);
}

module_init(fake_tsm_init);
module_exit(fake_tsm_exit);
MODULE_DESCRIPTION("A TSM provider for tests, answered by a program");
MODULE_LICENSE("GPL");
