// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/sev-guest without SEV: the two report requests of linux/sev-guest.h, answered by a program
 * (relay.h).
 */
#include <linux/module.h>
#include <linux/sev-guest.h>

#include "relay.h"

#define REPORT_BYTES 1184

/* MSG_REPORT_RSP of the SEV-SNP ABI, as the device hands it on. */
struct report_response {
	__le32 status;
	__le32 report_bytes;
	u8 reserved[24];
	u8 report[REPORT_BYTES];
} __packed;

static int answer(struct snp_guest_request_ioctl *request, const struct snp_report_req *asked,
		  struct snp_ext_report_req *extended)
{
	struct snp_report_resp *response __free(kfree) = NULL;
	u8 *evidence __free(kvfree) = NULL;
	u8 *certificates __free(kvfree) = NULL;
	struct report_response *message;
	size_t evidence_bytes, certificates_bytes;
	int result;

	result = relay_ask(asked->user_data, asked->vmpl, &evidence, &evidence_bytes,
			   &certificates, &certificates_bytes);
	if (result)
		return result;
	if (evidence_bytes != REPORT_BYTES)
		return -EIO;
	if (extended && certificates_bytes) {
		if (extended->certs_len < certificates_bytes) {
			extended->certs_len = PAGE_ALIGN(certificates_bytes);
			request->vmm_error = SNP_GUEST_VMM_ERR_INVALID_LEN;
			return -EIO;
		}
		if (copy_to_user(u64_to_user_ptr(extended->certs_address), certificates,
				 certificates_bytes))
			return -EFAULT;
	}

	response = kzalloc(sizeof(*response), GFP_KERNEL);
	if (!response)
		return -ENOMEM;
	message = (struct report_response *)response->data;
	message->report_bytes = cpu_to_le32(REPORT_BYTES);
	memcpy(message->report, evidence, REPORT_BYTES);
	if (copy_to_user(u64_to_user_ptr(request->resp_data), response, sizeof(*response)))
		return -EFAULT;
	return 0;
}

static long sev_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	void __user *user = (void __user *)argument;
	struct snp_guest_request_ioctl request;
	struct snp_ext_report_req extended;
	struct snp_report_req plain;
	void __user *asked;
	long result;

	if (copy_from_user(&request, user, sizeof(request)))
		return -EFAULT;
	if (!request.msg_version)
		return -EINVAL;
	request.exitinfo2 = 0;
	asked = u64_to_user_ptr(request.req_data);
	switch (command) {
	case SNP_GET_REPORT:
		if (copy_from_user(&plain, asked, sizeof(plain)))
			return -EFAULT;
		result = answer(&request, &plain, NULL);
		break;
	case SNP_GET_EXT_REPORT:
		if (copy_from_user(&extended, asked, sizeof(extended)))
			return -EFAULT;
		result = answer(&request, &extended.data, &extended);
		if (copy_to_user(asked, &extended, sizeof(extended)))
			return -EFAULT;
		break;
	default:
		return -ENOTTY;
	}
	if (copy_to_user(user, &request, sizeof(request)))
		return -EFAULT;
	return result;
}

static const struct file_operations sev_operations = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = sev_ioctl,
};

static struct miscdevice sev_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "sev-guest",
	.mode = 0600,
	.fops = &sev_operations,
};

static int __init fake_sev_guest_init(void)
{
	int result = misc_register(&relay_device);

	if (result)
		return result;
	result = misc_register(&sev_device);
	if (result)
		misc_deregister(&relay_device);
	return result;
}

static void __exit fake_sev_guest_exit(void)
{
	misc_deregister(&sev_device);
	misc_deregister(&relay_device);
}

module_init(fake_sev_guest_init);
module_exit(fake_sev_guest_exit);
MODULE_DESCRIPTION("/dev/sev-guest for tests, answered by a program");
MODULE_LICENSE("GPL");
