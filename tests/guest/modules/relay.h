/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What stands in for the chip: a character device whose reader plays it.
 *
 * Each module of this folder includes this file once. It makes /dev/fake-chip. A program that
 * reads it gets one request (struct relay_request) and has to write the answer, in one write:
 * struct relay_answer, then the evidence, then the certificates. The kernel signs nothing.
 */
#include <linux/cleanup.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/wait.h>

#define RELAY_DATA_BYTES 64
#define RELAY_ANSWER_BYTES_MAX (128 * 1024)
#define RELAY_PATIENCE (20 * HZ)

struct relay_request {
	u8 data[RELAY_DATA_BYTES];
	__le32 privilege_level;
};

struct relay_answer {
	__le32 evidence_bytes;
	__le32 certificates_bytes;
};

enum relay_state { RELAY_IDLE, RELAY_ASKED, RELAY_TAKEN, RELAY_ANSWERED };

static struct {
	struct mutex one_at_a_time; /* held for the whole of a request */
	struct mutex lock; /* of what follows */
	wait_queue_head_t changed;
	enum relay_state state;
	struct relay_request request;
	u8 *answer; /* evidence and certificates, behind their header */
	size_t answer_bytes;
} relay = {
	.one_at_a_time = __MUTEX_INITIALIZER(relay.one_at_a_time),
	.lock = __MUTEX_INITIALIZER(relay.lock),
	.changed = __WAIT_QUEUE_HEAD_INITIALIZER(relay.changed),
};

static void relay_become(enum relay_state state)
{
	relay.state = state;
	wake_up_all(&relay.changed);
}

static ssize_t relay_read(struct file *file, char __user *to, size_t length, loff_t *position)
{
	if (length < sizeof(relay.request))
		return -EINVAL;
	if (wait_event_interruptible(relay.changed, READ_ONCE(relay.state) == RELAY_ASKED))
		return -ERESTARTSYS;
	guard(mutex)(&relay.lock);
	if (relay.state != RELAY_ASKED)
		return -EAGAIN;
	if (copy_to_user(to, &relay.request, sizeof(relay.request)))
		return -EFAULT;
	relay_become(RELAY_TAKEN);
	return sizeof(relay.request);
}

static ssize_t relay_write(struct file *file, const char __user *from, size_t length,
			   loff_t *position)
{
	struct relay_answer header;
	u8 *answer;

	if (length < sizeof(header) || length > RELAY_ANSWER_BYTES_MAX)
		return -EINVAL;
	answer = vmemdup_user(from, length);
	if (IS_ERR(answer))
		return PTR_ERR(answer);
	memcpy(&header, answer, sizeof(header));
	guard(mutex)(&relay.lock);
	if (relay.state != RELAY_TAKEN || (u64)le32_to_cpu(header.evidence_bytes) +
			le32_to_cpu(header.certificates_bytes) != length - sizeof(header)) {
		kvfree(answer);
		return -EINVAL;
	}
	relay.answer = answer;
	relay.answer_bytes = length;
	relay_become(RELAY_ANSWERED);
	return length;
}

static const struct file_operations relay_operations = {
	.owner = THIS_MODULE,
	.read = relay_read,
	.write = relay_write,
};

static struct miscdevice relay_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "fake-chip",
	.mode = 0600,
	.fops = &relay_operations,
};

/*
 * Has a request answered. On success *evidence and *certificates are the caller's to kvfree();
 * *certificates is NULL where there are none.
 */
static int relay_ask(const u8 *data, u32 privilege_level, u8 **evidence, size_t *evidence_bytes,
		     u8 **certificates, size_t *certificates_bytes)
{
	struct relay_answer header;
	u8 *answer = NULL;
	long left;
	int result = 0;

	if (mutex_lock_interruptible(&relay.one_at_a_time))
		return -EINTR;
	mutex_lock(&relay.lock);
	memcpy(relay.request.data, data, RELAY_DATA_BYTES);
	relay.request.privilege_level = cpu_to_le32(privilege_level);
	relay_become(RELAY_ASKED);
	mutex_unlock(&relay.lock);

	left = wait_event_interruptible_timeout(
		relay.changed, READ_ONCE(relay.state) == RELAY_ANSWERED, RELAY_PATIENCE);

	mutex_lock(&relay.lock);
	if (relay.state == RELAY_ANSWERED)
		answer = relay.answer;
	relay.answer = NULL;
	relay_become(RELAY_IDLE);
	mutex_unlock(&relay.lock);
	if (!answer) {
		mutex_unlock(&relay.one_at_a_time);
		return left < 0 ? left : -ETIMEDOUT;
	}

	memcpy(&header, answer, sizeof(header));
	*evidence_bytes = le32_to_cpu(header.evidence_bytes);
	*certificates_bytes = le32_to_cpu(header.certificates_bytes);
	*evidence = kvmemdup(answer + sizeof(header), *evidence_bytes, GFP_KERNEL);
	*certificates = NULL;
	if (*certificates_bytes)
		*certificates = kvmemdup(answer + sizeof(header) + *evidence_bytes,
					 *certificates_bytes, GFP_KERNEL);
	if (!*evidence || (*certificates_bytes && !*certificates)) {
		kvfree(*evidence);
		kvfree(*certificates);
		result = -ENOMEM;
	}
	kvfree(answer);
	mutex_unlock(&relay.one_at_a_time);
	return result;
}
